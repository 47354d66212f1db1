// Ref<T>: an 8-byte intrusive shared pointer. T has an atomic `refs` member and is made by
// Ref::make.
#pragma once

#include <atomic>
#include <cstdint>
#include <utility>

namespace nibble {

template <class T>
class Ref {
 public:
  Ref() = default;
  Ref(const Ref& o) : p_(o.p_) {
    if (p_) p_->refs.fetch_add(1, std::memory_order_relaxed);
  }
  Ref(Ref&& o) noexcept : p_(std::exchange(o.p_, nullptr)) {}
  Ref& operator=(Ref o) noexcept {
    std::swap(p_, o.p_);
    return *this;
  }
  ~Ref() {
    if (p_ && p_->refs.fetch_sub(1, std::memory_order_acq_rel) == 1) delete p_;
  }
  template <class... Args>
  static Ref make(Args&&... args) {
    Ref r;
    r.p_ = new T(std::forward<Args>(args)...);
    r.p_->refs.store(1, std::memory_order_relaxed);
    return r;
  }
  T* operator->() const { return p_; }
  T& operator*() const { return *p_; }
  explicit operator bool() const { return p_ != nullptr; }
  bool operator==(const Ref& o) const { return p_ == o.p_; }
  std::uint32_t count() const { return p_ ? p_->refs.load(std::memory_order_relaxed) : 0; }

 private:
  T* p_ = nullptr;
};

}  // namespace nibble
