#include <atomic>
#include <cmath>
#include <vector>

#include "tensor/cpu/lanes.h"
#include "tensor/cpu/loops.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

std::int64_t pieces_of(std::int64_t n, std::int64_t size) { return (n + size - 1) / size; }

// Rows of n: each is cut into pieces of kGrain, whose results are folded in order.
// emit(row, value) stores.
template <class C, class T, class Fold, class Emit>
void fold_rows(const T* x, std::int64_t rows, std::int64_t n, Fold fold, Emit emit) {
  const std::int64_t pieces = pieces_of(n, kGrain);
  const auto piece = [=](std::int64_t row, std::int64_t p) {
    const std::int64_t begin = p * kGrain;
    return lane_fold<C>(
        std::min(kGrain, n - begin), fold, [](C v) { return v; }, x + row * n + begin);
  };
  if (pieces <= 1) {
    parallel_for(rows, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        emit(r, n == 0 ? Fold::template initial<C>() : piece(r, 0));
    });
    return;
  }
  std::vector<C> partial(static_cast<std::size_t>(rows * pieces));
  parallel_for(rows * pieces, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t j = begin; j < end; ++j)
      partial[static_cast<std::size_t>(j)] = piece(j / pieces, j % pieces);
  });
  for (std::int64_t r = 0; r < rows; ++r) {
    C total = partial[static_cast<std::size_t>(r * pieces)];
    for (std::int64_t p = 1; p < pieces; ++p)
      total = fold(total, partial[static_cast<std::size_t>(r * pieces + p)]);
    emit(r, total);
  }
}

// Columns of [n, inner] slabs: bands of rows are folded apart and then in order, which keeps f32
// sums short and gives every thread work. emit(o · inner + column, value) stores.
template <class C, class T, class Fold, class Emit>
void fold_columns(const T* x, std::int64_t outer, std::int64_t n, std::int64_t inner, Fold fold,
                  Emit emit) {
  constexpr std::int64_t kBand = 512, kColumns = 1024;
  const std::int64_t bands = std::max<std::int64_t>(1, pieces_of(n, kBand));
  const std::int64_t blocks = pieces_of(inner, kColumns);
  std::vector<C> partial(static_cast<std::size_t>(outer * bands * inner));
  const std::int64_t grain =
      std::max<std::int64_t>(1, kGrain / (kColumns * std::min(n + 1, kBand)));
  parallel_for(outer * bands * blocks, grain, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t job = begin; job < end; ++job) {
      const std::int64_t slab = job / blocks, o = slab / bands;
      const std::int64_t r0 = slab % bands * kBand, r1 = std::min(r0 + kBand, n);
      const std::int64_t c0 = job % blocks * kColumns, width = std::min(kColumns, inner - c0);
      C* total = partial.data() + slab * inner + c0;
      std::fill(total, total + width, Fold::template initial<C>());
      const T* row = x + (o * n + r0) * inner + c0;
      std::int64_t r = r0;
      for (; r + 4 <= r1; r += 4, row += 4 * inner)  // a quarter of the loads and stores of totals
        map_range(
            total, 0, width,
            [fold](C t, C p, C q, C u, C v) { return fold(t, fold(fold(p, q), fold(u, v))); },
            total, row, row + inner, row + 2 * inner, row + 3 * inner);
      for (; r < r1; ++r, row += inner)
        map_range(
            total, 0, width, [fold](C t, C v) { return fold(t, v); }, total, row);
    }
  });
  parallel_for(outer * inner, row_grain(bands), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) {
      const C* first = partial.data() + i / inner * bands * inner + i % inner;
      C total = first[0];
      for (std::int64_t b = 1; b < bands; ++b) total = fold(total, first[b * inner]);
      emit(i, total);
    }
  });
}

template <class Fold>
void reduce(const char* op, Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n,
            std::int64_t inner, Fold fold) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), op, T, {
    using C = compute_t<T>;
    T* out = y.data<T>();
    const auto emit = [out](std::int64_t i, C v) { out[i] = static_cast<T>(v); };
    if (inner == 1)
      fold_rows<C>(x.data<T>(), outer, n, fold, emit);
    else
      fold_columns<C>(x.data<T>(), outer, n, inner, fold, emit);
  });
}

// Calls line(x, i) for each of the outer·inner lines; elements lie `inner` apart from x on.
template <class F>
void for_lines(std::int64_t outer, std::int64_t n, std::int64_t inner, F line) {
  parallel_for(outer * inner, row_grain(n), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i) line(i / inner * n * inner + i % inner, i);
  });
}

template <class T>
bool finite_range(const T* x, std::int64_t begin, std::int64_t end) {
  using Bits = std::conditional_t<sizeof(T) == 8, std::uint64_t,
                                  std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint16_t>>;
  constexpr auto kExponent = static_cast<Bits>(sizeof(T) == 8   ? 0x7ff0000000000000ull
                                               : sizeof(T) == 4 ? 0x7f800000ull
                                                                : 0x7f80ull);
  Bits bad = 0;
  for (std::int64_t i = begin; i < end; ++i)
    bad |= static_cast<Bits>((std::bit_cast<Bits>(x[i]) & kExponent) == kExponent);
  return bad == 0;
}

// The sum of a band of up to 512 rows of `width` columns, in kernels.h's order.
template <class C, class T>
void sum_band(C* band, const T* x, std::int64_t rows, std::int64_t cols, std::int64_t width) {
  constexpr std::int64_t kWidth = 256;  // columns at a time
  static const T zeros[kWidth] = {};
  for (std::int64_t c0 = 0; c0 < width; c0 += kWidth) {
    const std::int64_t n = std::min(kWidth, width - c0);
    C sixteen[4][kWidth];
    std::fill(band + c0, band + c0 + n, C(0));
    for (std::int64_t block = 0; block < rows; block += 64) {
      for (std::int64_t k = 0; k < 4; ++k) {
        std::fill(sixteen[k], sixteen[k] + n, C(0));
        for (std::int64_t four = 0; four < 16; four += 4) {
          const T* row[4];
          for (std::int64_t i = 0; i < 4; ++i) {
            const std::int64_t r = block + 16 * k + four + i;
            row[i] = r < rows ? x + r * cols + c0 : zeros;
          }
          map_range(
              sixteen[k], 0, n, [](C t, C p, C q, C u, C v) { return t + ((p + q) + (u + v)); },
              sixteen[k], row[0], row[1], row[2], row[3]);
        }
      }
      map_range(
          band + c0, 0, n, [](C t, C p, C q, C u, C v) { return t + ((p + q) + (u + v)); },
          band + c0, sixteen[0], sixteen[1], sixteen[2], sixteen[3]);
    }
  }
}

template <class D, class T>
void column_sum_as(Tensor& db, const Tensor& dy, bool accumulate) {
  using C = compute_t<D>;
  constexpr std::int64_t kBand = 512, kColumns = 1024;
  const std::int64_t rows = dy.size(0), cols = dy.size(1);
  const std::int64_t bands = pieces_of(rows, kBand), blocks = pieces_of(cols, kColumns);
  std::vector<C> partial(static_cast<std::size_t>(bands * cols));
  const T* x = dy.data<T>();
  parallel_for(bands * blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t job = begin; job < end; ++job) {
      const std::int64_t b = job / blocks, c0 = job % blocks * kColumns;
      sum_band(partial.data() + b * cols + c0, x + b * kBand * cols + c0,
               std::min(kBand, rows - b * kBand), cols, std::min(kColumns, cols - c0));
    }
  });
  D* out = db.data<D>();
  parallel_for(cols, 1024, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t c = begin; c < end; ++c) {
      C total = bands > 0 ? partial[static_cast<std::size_t>(c)] : C(0);
      for (std::int64_t b = 1; b < bands; ++b)
        total += partial[static_cast<std::size_t>(b * cols + c)];
      out[c] = static_cast<D>(accumulate ? static_cast<C>(out[c]) + total : total);
    }
  });
}

}  // namespace

void sum(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  reduce("sum", y, x, outer, n, inner, SumFold{});
}
void max(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  reduce("max", y, x, outer, n, inner, MaxFold{});
}

// The first NaN wins over every number.
void argmax(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  std::int32_t* out = y.data<std::int32_t>();
  NIBBLE_FLOAT_SWITCH(x.dtype(), "argmax", T, {
    const T* in = x.data<T>();
    for_lines(outer, n, inner, [=](std::int64_t first, std::int64_t i) {
      auto best = static_cast<compute_t<T>>(in[first]);
      std::int64_t at = 0;
      for (std::int64_t k = 1; k < n && best == best; ++k) {
        const auto v = static_cast<compute_t<T>>(in[first + k * inner]);
        if (v > best || v != v) {
          best = v;
          at = k;
        }
      }
      out[i] = static_cast<std::int32_t>(at);
    });
  });
}

void cumsum(Tensor& y, const Tensor& x, std::int64_t outer, std::int64_t n, std::int64_t inner) {
  NIBBLE_FLOAT_SWITCH(y.dtype(), "cumsum", T, {
    const T* in = x.data<T>();
    T* out = y.data<T>();
    for_lines(outer, n, inner, [=](std::int64_t first, std::int64_t) {
      compute_t<T> total = 0;
      for (std::int64_t k = 0; k < n; ++k) {
        total += static_cast<compute_t<T>>(in[first + k * inner]);
        out[first + k * inner] = static_cast<T>(total);
      }
    });
  });
}

void sum_squares(Tensor& y, const Tensor& x, bool accumulate) {
  const std::int64_t n = x.numel(), pieces = pieces_of(n, kGrain);
  std::vector<double> partial(static_cast<std::size_t>(pieces));
  NIBBLE_FLOAT_SWITCH(x.dtype(), "sum_squares", T, {
    const T* in = x.data<T>();
    parallel_for(n, kGrain, [&](std::int64_t begin, std::int64_t end) {
      partial[static_cast<std::size_t>(begin / kGrain)] = lane_fold<double>(
          end - begin, SumFold{}, [](double v) { return v * v; }, in + begin);
    });
  });
  double total = accumulate ? *y.data<double>() : 0;
  for (const double p : partial) total += p;
  *y.data<double>() = total;
}

void all_finite(Tensor& y, const Tensor& x) {
  std::atomic<bool> finite{true};
  NIBBLE_FLOAT_SWITCH(x.dtype(), "all_finite", T, {
    const T* in = x.data<T>();
    parallel_for(x.numel(), kGrain, [&](std::int64_t begin, std::int64_t end) {
      if (!finite_range(in, begin, end)) finite.store(false, std::memory_order_relaxed);
    });
  });
  *y.data<std::uint8_t>() = finite ? 1 : 0;
}

void column_sum(Tensor& db, const Tensor& dy, bool accumulate) {
  NIBBLE_FLOAT_SWITCH(db.dtype(), "column_sum", D, {
    NIBBLE_FLOAT_SWITCH(dy.dtype(), "column_sum", T, {
      if constexpr (sizeof(T) <= sizeof(D)) column_sum_as<D, T>(db, dy, accumulate);
    });
  });
}

}  // namespace nibble::cpu
