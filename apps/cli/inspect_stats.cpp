// A tensor's statistics, from mapped bytes: nothing is copied, so a file larger than memory will
// do.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "apps/cli/inspect.h"
#include "quant/format.h"

namespace nibble::cli {
namespace {

// Calls fn(double) for every element. Stored data need not be aligned.
template <class T, class Fn>
void each_of(std::span<const std::byte> bytes, const Fn& fn) {
  for (std::size_t i = 0; i + sizeof(T) <= bytes.size(); i += sizeof(T)) {
    T value;
    std::memcpy(&value, bytes.data() + i, sizeof(T));
    if constexpr (std::is_same_v<T, bfloat16>)
      fn(static_cast<double>(static_cast<float>(value)));
    else
      fn(static_cast<double>(value));
  }
}

template <class Fn>
void each(DType dtype, std::span<const std::byte> bytes, const Fn& fn) {
  switch (dtype) {
    case DType::F64: return each_of<double>(bytes, fn);
    case DType::F32: return each_of<float>(bytes, fn);
    case DType::BF16: return each_of<bfloat16>(bytes, fn);
    case DType::I32: return each_of<std::int32_t>(bytes, fn);
    case DType::I8: return each_of<std::int8_t>(bytes, fn);
    case DType::U8: return each_of<std::uint8_t>(bytes, fn);
    case DType::E4M3:
    case DType::E5M2: {
      const Format format = Format::parse(dtype == DType::E4M3 ? "e4m3" : "e5m2");
      std::array<double, 256> values{};
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<double>(format.value_of(static_cast<std::uint8_t>(i)));
      for (const std::byte b : bytes) fn(values[static_cast<std::size_t>(b)]);
      return;
    }
    case DType::U4x2:
      for (const std::byte b : bytes) {
        fn(static_cast<double>(static_cast<unsigned>(b) & 15u));
        fn(static_cast<double>(static_cast<unsigned>(b) >> 4u));
      }
      return;
  }
}

}  // namespace

TensorStats tensor_stats(DType dtype, std::span<const std::byte> bytes) {
  TensorStats s;
  double sum = 0, squares = 0;
  std::int64_t finite = 0;
  each(dtype, bytes, [&](double x) {
    ++s.count;
    if (!std::isfinite(x)) {
      ++s.not_finite;
      return;
    }
    s.min = finite ? std::min(s.min, x) : x;
    s.max = finite ? std::max(s.max, x) : x;
    ++finite;
    s.zeros += x == 0;
    sum += x;
    squares += x * x;
  });
  if (finite == 0) return s;
  s.absmax = std::max(std::abs(s.min), std::abs(s.max));
  s.mean = sum / static_cast<double>(finite);
  s.rms = std::sqrt(squares / static_cast<double>(finite));
  const double width = s.max / TensorStats::kBins - s.min / TensorStats::kBins;
  each(dtype, bytes, [&](double x) {
    if (!std::isfinite(x)) return;
    const double bin = width > 0 ? (x - s.min) / width : 0;
    ++s.bins[static_cast<int>(std::min<double>(bin, TensorStats::kBins - 1))];
  });
  return s;
}

std::string sparkline(const TensorStats& s) {
  constexpr std::array<const char*, 9> kBars{" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const std::int64_t most = *std::max_element(std::begin(s.bins), std::end(s.bins));
  std::string line;
  // What is there at all shows: only an empty bin is blank.
  for (const std::int64_t n : s.bins)
    line += kBars[n == 0 ? 0
                         : static_cast<std::size_t>(1 + std::lround(7.0 * static_cast<double>(n) /
                                                                    static_cast<double>(most)))];
  return line;
}

}  // namespace nibble::cli
