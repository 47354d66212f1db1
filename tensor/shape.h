// Shape: up to six extents, inline. Negative indices count from the back.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <span>

#include "tensor/check.h"

namespace nibble {

class Shape {
 public:
  static constexpr int kMaxRank = 6;

  constexpr Shape() = default;
  Shape(std::initializer_list<std::int64_t> dims) : Shape(std::span(dims.begin(), dims.size())) {}
  explicit Shape(std::span<const std::int64_t> dims) {
    NIBBLE_CHECK(dims.size() <= kMaxRank, "shape", "got rank {}, expected at most {}", dims.size(),
                 kMaxRank);
    for (const std::int64_t d : dims) push_back(d);
  }

  int rank() const { return rank_; }
  std::int64_t operator[](int i) const { return dims_[static_cast<std::size_t>(index(i))]; }
  std::int64_t& operator[](int i) { return dims_[static_cast<std::size_t>(index(i))]; }
  const std::int64_t* begin() const { return dims_.data(); }
  const std::int64_t* end() const { return dims_.data() + rank_; }
  std::int64_t numel() const {
    std::int64_t n = 1;
    for (const std::int64_t d : *this) n *= d;
    return n;
  }
  void push_back(std::int64_t d) {
    NIBBLE_CHECK(rank_ < kMaxRank, "shape", "rank exceeds {}", kMaxRank);
    dims_[static_cast<std::size_t>(rank_++)] = d;
  }
  // `i` in [-rank, rank) as a non-negative index.
  int index(int i) const {
    NIBBLE_CHECK(i >= -rank_ && i < rank_, "shape", "dimension {} is out of range for rank {}", i,
                 rank_);
    return i < 0 ? i + rank_ : i;
  }
  bool operator==(const Shape& o) const {
    if (rank_ != o.rank_) return false;
    for (int i = 0; i < rank_; ++i)
      if (dims_[static_cast<std::size_t>(i)] != o.dims_[static_cast<std::size_t>(i)]) return false;
    return true;
  }

 private:
  std::array<std::int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

std::string to_string(const Shape& shape);  // "[8, 1024, 768]"
// The shape both broadcast to by numpy's rule; throws Error(op) when they don't.
Shape broadcast_shapes(std::string_view op, const Shape& a, const Shape& b);

}  // namespace nibble

template <>
struct fmt::formatter<nibble::Shape> : fmt::formatter<std::string> {
  auto format(const nibble::Shape& s, format_context& ctx) const {
    return fmt::formatter<std::string>::format(nibble::to_string(s), ctx);
  }
};
