// Device memory, error checks and timing shared by the files of the spike.
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace nibble::spike {

using bf16 = __nv_bfloat16;

inline void check(cudaError_t status,
                  const std::source_location& at = std::source_location::current()) {
  if (status == cudaSuccess) return;
  throw std::runtime_error(std::string(at.file_name()) + ":" + std::to_string(at.line()) + ": " +
                           cudaGetErrorString(status));
}

/// A device array that frees itself. Fresh arrays are poisoned (0xff: NaN as bf16, f32 and f64), so
/// a value that no kernel wrote cannot pass a check.
template <class T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t n) : size_(n) {
    check(cudaMalloc(reinterpret_cast<void**>(&data_), n * sizeof(T)));
    check(cudaMemset(data_, 0xff, n * sizeof(T)));
  }
  Buffer(Buffer&& o) noexcept
      : data_(std::exchange(o.data_, nullptr)), size_(std::exchange(o.size_, 0)) {}
  Buffer& operator=(Buffer&& o) noexcept {
    std::swap(data_, o.data_);
    std::swap(size_, o.size_);
    return *this;
  }
  ~Buffer() { cudaFree(data_); }

  T* get() const { return data_; }
  std::size_t size() const { return size_; }
  std::vector<T> host() const {
    std::vector<T> v(size_);
    check(cudaMemcpy(v.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return v;
  }
  void upload(const std::vector<T>& v) {
    if (v.size() != size_) throw std::runtime_error("Buffer::upload: size mismatch");
    check(cudaMemcpy(data_, v.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  void zero() const { check(cudaMemset(data_, 0, size_ * sizeof(T))); }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

class Event {
 public:
  Event() { check(cudaEventCreate(&event_)); }
  Event(Event&& o) noexcept : event_(std::exchange(o.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  ~Event() {
    if (event_ != nullptr) cudaEventDestroy(event_);
  }
  void record() const { check(cudaEventRecord(event_)); }
  /// Milliseconds from `start` to this event; waits for this event.
  float since(const Event& start) const {
    check(cudaEventSynchronize(event_));
    float ms = 0;
    check(cudaEventElapsedTime(&ms, start.event_, event_));
    return ms;
  }

 private:
  cudaEvent_t event_ = nullptr;
};

constexpr int ceil_div(int a, int b) { return (a + b - 1) / b; }

}  // namespace nibble::spike
