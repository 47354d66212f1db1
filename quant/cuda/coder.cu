// The tables of a code book's search, made on the host from the book's own.
#include "quant/cuda/coder.cuh"

#include <algorithm>
#include <limits>

namespace nibble::cuda {

BookCoder::BookCoder(const Format& format)
    : table_(format), size_(static_cast<std::uint32_t>(format.book().values.size())) {
  const CodeBook& book = format.book();
  std::ranges::fill(bounds_, std::numeric_limits<float>::infinity());
  std::ranges::copy(book.bounds, bounds_);
  std::uint32_t largest = 0;
  for (const float b : book.bounds)
    largest = std::max(largest, std::bit_cast<std::uint32_t>(b) & 0x7fffffffu);
  // The window ends with the exponent of the largest bound; its last buckets reach to infinity.
  lowest_ = std::max(0, (static_cast<std::int32_t>(largest >> 23) + 1) * 16 - kSide);

  // book.first counts bounds below the floats that share their upper half.
  const auto below = [&](std::int32_t bucket) -> std::uint32_t {
    if (bucket == 0) return 0;
    if (bucket >= 2 * kSide) return static_cast<std::uint32_t>(book.bounds.size());
    if (bucket == kSide) return book.first[codec::book_bucket(0.0f)];
    const bool negative = bucket < kSide;
    const auto magnitude =
        static_cast<std::uint32_t>(lowest_ + (negative ? kSide - bucket : bucket - kSide));
    const std::uint32_t bits = magnitude << kBucketBits;
    return book.first[codec::book_bucket(
        std::bit_cast<float>(negative ? (bits - 1) | 0x80000000u : bits))];
  };
  std::uint32_t most = 0;  // bounds inside a bucket
  std::ranges::fill(starts_, 0u);
  for (std::int32_t bucket = 0; bucket < 2 * kSide; ++bucket) {
    const std::uint32_t start = below(bucket);
    starts_[bucket / 4] |= start << (8 * (bucket % 4));
    most = std::max(most, below(bucket + 1) - start);
  }
  first_step_ = std::bit_floor(most);  // steps of 2ⁿ, 2ⁿ⁻¹ … 1 cover 2ⁿ⁺¹ − 1 bounds
}

}  // namespace nibble::cuda
