// Tensor: an 8-byte handle to a strided view of reference-counted storage. Copies share storage.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "tensor/dtype.h"
#include "tensor/shape.h"
#include "tensor/storage.h"

namespace nibble {

struct RngKey;

namespace detail {
struct TensorImpl {
  std::atomic<std::uint32_t> refs{0};
  Ref<Storage> storage;
  std::int64_t offset = 0;  // elements
  Shape shape, strides;     // strides in elements; 0 along expanded dimensions
  DType dtype = DType::F32;
  bool contiguous = true;
};
}  // namespace detail

class Tensor {
 public:
  Tensor() = default;  // undefined; everything but defined() needs a defined one

  // Factories. `empty` is uninitialised.
  static Tensor empty(const Shape& shape, DType dtype = DType::F32, Device device = kCpu);
  static Tensor zeros(const Shape& shape, DType dtype = DType::F32, Device device = kCpu);
  static Tensor full(const Shape& shape, double value, DType dtype = DType::F32,
                     Device device = kCpu);
  static Tensor arange(std::int64_t n, DType dtype = DType::F32, Device device = kCpu);
  template <class T>
  static Tensor from(std::span<const T> values, const Shape& shape, Device device = kCpu);
  template <class T>
  static Tensor from(const std::vector<T>& values, const Shape& shape, Device device = kCpu) {
    return from(std::span<const T>(values), shape, device);
  }
  // Counter-based draws (tensor/rng.h): element i of the result depends on the key and i alone.
  static Tensor uniform(const Shape& shape, double low, double high, const RngKey& key,
                        DType dtype = DType::F32, Device device = kCpu);
  static Tensor normal(const Shape& shape, double mean, double stddev, const RngKey& key,
                       DType dtype = DType::F32, Device device = kCpu);

  bool defined() const { return static_cast<bool>(impl_); }
  explicit operator bool() const { return defined(); }
  const Shape& shape() const { return impl().shape; }
  const Shape& strides() const { return impl().strides; }
  int rank() const { return shape().rank(); }
  std::int64_t size(int dim) const { return shape()[dim]; }
  std::int64_t numel() const { return shape().numel(); }
  std::int64_t bytes() const { return bytes_of(dtype(), numel()); }
  DType dtype() const { return impl().dtype; }
  Device device() const { return impl().storage->device(); }
  bool is_contiguous() const { return impl().contiguous; }
  bool same_storage(const Tensor& o) const { return impl().storage == o.impl().storage; }
  // Rows of the matrix that the tensor is when all but the last dimension are flattened.
  std::int64_t rows() const { return rank() == 0 ? 1 : (size(-1) == 0 ? 0 : numel() / size(-1)); }
  std::int64_t cols() const { return rank() == 0 ? 1 : size(-1); }

  // Typed pointers to the first element; T must be the dtype's C++ type (U4x2 and fp8: uint8_t).
  template <class T>
  const T* data() const {
    return static_cast<const T*>(checked(dtype_of<T>));
  }
  template <class T>
  T* data() {
    return static_cast<T*>(const_cast<void*>(checked(dtype_of<T>)));
  }
  const std::byte* raw() const { return raw_pointer(); }
  std::byte* raw() { return raw_pointer(); }

  // Views: no copy. They throw where a copy would be needed; ops::contiguous makes one.
  Tensor view(const Shape& shape) const;  // one extent may be -1; needs a contiguous tensor
  Tensor transpose(int a, int b) const;
  Tensor t() const;  // of a matrix
  Tensor permute(std::initializer_list<int> dims) const;
  Tensor slice(int dim, std::int64_t begin, std::int64_t end) const;
  Tensor select(int dim, std::int64_t index) const;
  Tensor expand(const Shape& shape) const;  // broadcast view, stride 0
  Tensor squeeze(int dim) const;
  Tensor unsqueeze(int dim) const;
  Tensor flatten_rows() const { return view({rows(), cols()}); }

  Tensor clone() const;                  // contiguous copy on the same device
  Tensor to(DType dtype) const;          // itself when it has that dtype
  Tensor to(Device device) const;        // itself when it lives there
  void copy_from(const Tensor& source);  // shapes equal; converts dtype; any strides
  void fill(double value);
  double item() const;  // of a one-element tensor
  template <class T = float>
  std::vector<T> to_vector() const;  // converted, in logical order

  std::uint32_t version() const { return impl().storage->version(); }
  void bump_version() { impl().storage->bump_version(); }

 private:
  explicit Tensor(Ref<detail::TensorImpl> impl) : impl_(std::move(impl)) {}
  const detail::TensorImpl& impl() const {
    NIBBLE_CHECK(impl_, "tensor", "an undefined tensor was used");
    return *impl_;
  }
  const void* checked(DType expected) const;
  std::byte* raw_pointer() const;
  Tensor strided(const Shape& shape, const Shape& strides, std::int64_t offset) const;

  Ref<detail::TensorImpl> impl_;
};

// "f32[8, 768] on cpu"; "undefined" for an undefined one.
std::string describe(const Tensor& tensor);

}  // namespace nibble
