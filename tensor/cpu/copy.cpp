#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

// Fp8 payloads hold values here, unlike Tensor::data(), which hands out their bytes.
template <class F>
void with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::F64: return f(double{});
    case DType::F32: return f(float{});
    case DType::BF16: return f(bfloat16{});
    case DType::I32: return f(std::int32_t{});
    case DType::U8: return f(std::uint8_t{});
    case DType::I8: return f(std::int8_t{});
    case DType::E4M3: return f(float8_e4m3{});
    case DType::E5M2: return f(float8_e5m2{});
    case DType::U4x2: break;
  }
  fail("copy", "packed 4-bit codes have no numeric value: got dtype {}", dtype);
}

// Saturates to the range of an integer type; NaN becomes 0.
template <class To, class From>
To converted(From x) {
  if constexpr (std::is_integral_v<To>) {
    const auto v = static_cast<double>(x);
    constexpr double kLow = std::numeric_limits<To>::min(), kHigh = std::numeric_limits<To>::max();
    return static_cast<To>(v >= kHigh ? kHigh : v > kLow ? v : std::isnan(v) ? 0.0 : kLow);
  } else if constexpr (std::is_same_v<To, double>) {
    return static_cast<double>(x);
  } else {
    return static_cast<To>(static_cast<float>(x));
  }
}

template <class To, class From>
void copy_row(To* y, std::int64_t sy, const From* x, std::int64_t sx, std::int64_t n) {
  if constexpr (std::is_same_v<To, From>) {
    if (sy == 1 && sx == 1) {
      std::memcpy(y, x, static_cast<std::size_t>(n) * sizeof(To));
      return;
    }
  }
  if (sy == 1 && sx == 1)
    for (std::int64_t i = 0; i < n; ++i) y[i] = converted<To>(x[i]);
  else
    for (std::int64_t i = 0; i < n; ++i) y[i * sy] = converted<To>(x[i * sx]);
}

// The innermost dimension is y's; `fast` is the one along which x is dense. Going through a tile
// touches every cache line of both once, also when a power-of-two stride maps them to one set.
template <class To, class From>
void copy_tiled(To* y, const From* x, const Strided<2>& s, int fast) {
  constexpr std::int64_t kTile = 32;
  const int last = s.rank - 1;
  const std::int64_t rows = s.extent[fast], cols = s.extent[last];
  const std::int64_t ry = s.stride[0][fast], rx = s.stride[1][fast];
  const std::int64_t cy = s.stride[0][last], cx = s.stride[1][last];
  Strided<2> outer = s;
  outer.extent[fast] = outer.extent[last] = 1;
  const std::int64_t bands = (rows + kTile - 1) / kTile;
  const std::int64_t grain = std::max<std::int64_t>(1, kGrain / (kTile * cols));
  parallel_for(outer.numel() * bands, grain, [&](std::int64_t begin, std::int64_t end) {
    std::array<To, kTile * kTile> tile;
    for (std::int64_t job = begin; job < end; ++job) {
      const std::int64_t r0 = job % bands * kTile, r1 = std::min(r0 + kTile, rows);
      walk_rows(outer, job / bands, job / bands + 1, [&](std::int64_t, const auto& at, auto) {
        for (std::int64_t c0 = 0; c0 < cols; c0 += kTile) {
          const std::int64_t c1 = std::min(c0 + kTile, cols);
          for (std::int64_t c = c0; c < c1; ++c)
            copy_row(tile.data() + (c - c0) * kTile, 1, x + at[1] + r0 * rx + c * cx, rx, r1 - r0);
          for (std::int64_t r = r0; r < r1; ++r)
            copy_row(y + at[0] + r * ry + c0 * cy, cy, tile.data() + (r - r0), kTile, c1 - c0);
        }
      });
    }
  });
}

template <class To, class From>
void copy_strided(To* y, const From* x, const Strided<2>& s) {
  const int last = s.rank - 1;
  int fast = last;
  for (int d = 0; d < last; ++d)
    if (s.stride[1][d] != 0 && s.stride[1][d] < s.stride[1][fast]) fast = d;
  if (fast != last) return copy_tiled(y, x, s, fast);
  parallel_for(s.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    walk_rows(s, begin, end, [&](std::int64_t, const auto& at, std::int64_t n) {
      copy_row(y + at[0], s.stride[0][last], x + at[1], s.stride[1][last], n);
    });
  });
}

// Dimensions by descending stride of y, so that writes are as sequential as the view allows.
std::array<int, Shape::kMaxRank> write_order(const Tensor& y) {
  std::array<int, Shape::kMaxRank> order{};
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.begin() + y.rank(),
                   [&](int a, int b) { return y.strides()[a] > y.strides()[b]; });
  return order;
}

void check_writable(const Tensor& y, const char* op) {
  for (int d = 0; d < y.rank(); ++d)
    NIBBLE_CHECK(y.strides()[d] != 0 || y.size(d) <= 1, op,
                 "cannot write into an expanded view: {} with strides {}", describe(y),
                 y.strides());
}

void copy_packed(Tensor& y, const Tensor& x) {
  NIBBLE_CHECK(y.dtype() == x.dtype() && y.is_contiguous() && x.is_contiguous(), "copy",
               "packed codes can only be copied between contiguous u4x2 tensors: got {} into {}",
               describe(x), describe(y));
  std::memcpy(y.raw(), x.raw(), static_cast<std::size_t>(x.bytes()));
}

}  // namespace

void copy(Tensor& y, const Tensor& x) {
  if (x.numel() == 0) return;
  check_writable(y, "copy");
  if (y.dtype() == DType::U4x2 || x.dtype() == DType::U4x2) return copy_packed(y, x);
  const Strided<2> s = coalesce<2>(x.shape(), {y.strides(), x.strides()}, write_order(y));
  with_type(y.dtype(), [&]<class To>(To) {
    with_type(x.dtype(), [&]<class From>(From) {
      copy_strided(reinterpret_cast<To*>(y.raw()), reinterpret_cast<const From*>(x.raw()), s);
    });
  });
}

void fill(Tensor& y, double value) {
  if (y.numel() == 0) return;
  check_writable(y, "fill");
  if (y.dtype() == DType::U4x2) {
    NIBBLE_CHECK(y.is_contiguous() && value >= 0 && value <= 15 && value == std::floor(value),
                 "fill", "got {} for {}, expected a code 0 to 15 and a contiguous tensor", value,
                 describe(y));
    std::memset(y.raw(), static_cast<int>(value) * 17, static_cast<std::size_t>(y.bytes()));
    return;
  }
  const Strided<1> s = coalesce<1>(y.shape(), {y.strides()}, write_order(y));
  with_type(y.dtype(), [&]<class T>(T) {
    T* data = reinterpret_cast<T*>(y.raw());
    const T v = converted<T>(value);
    const std::int64_t step = s.stride[0][s.rank - 1];
    parallel_for(s.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      walk_rows(s, begin, end, [=](std::int64_t, const auto& at, std::int64_t n) {
        T* p = data + at[0];
        const T local = v;  // the stores might alias the capture
        if (step == 1)
          for (std::int64_t i = 0; i < n; ++i) p[i] = local;
        else
          for (std::int64_t i = 0; i < n; ++i) p[i * step] = local;
      });
    });
  });
}

}  // namespace nibble::cpu
