#include <cmath>
#include <cstring>

#include "tensor/convert.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

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
  const int last = s.rank - 1, fast = dense_dimension(s);
  if (fast != last) return copy_tiled(y, x, s, fast);
  parallel_for(s.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
    walk_rows(s, begin, end, [&](std::int64_t, const auto& at, std::int64_t n) {
      copy_row(y + at[0], s.stride[0][last], x + at[1], s.stride[1][last], n);
    });
  });
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
  with_element_type(y.dtype(), [&]<class To>(To) {
    with_element_type(x.dtype(), [&]<class From>(From) {
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
  with_element_type(y.dtype(), [&]<class T>(T) {
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
