#include <cstring>
#include <vector>

#include "tensor/cpu/loops.h"
#include "tensor/cpu/row_groups.h"
#include "tensor/kernels.h"

namespace nibble::cpu {
namespace {

// Before anything is written: a bad index must leave the destination as it was.
const std::int32_t* checked_indices(const char* op, const Tensor& index, std::int64_t limit) {
  const std::int32_t* p = index.data<std::int32_t>();
  for (std::int64_t i = 0; i < index.numel(); ++i)
    NIBBLE_CHECK(p[i] >= 0 && p[i] < limit, op,
                 "index {} is out of range: got {}, expected 0 to {}", i, p[i], limit - 1);
  return p;
}

}  // namespace

void index_select(Tensor& y, const Tensor& x, const Tensor& index) {
  const std::int32_t* rows = checked_indices("index_select", index, x.size(0));
  const std::int64_t cols = x.size(1), bytes = bytes_of(x.dtype(), cols);
  std::byte* out = y.raw();
  const std::byte* table = x.raw();
  parallel_for(index.numel(), row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t i = begin; i < end; ++i)
      std::memcpy(out + i * bytes, table + rows[i] * bytes, static_cast<std::size_t>(bytes));
  });
}

void index_add(Tensor& y, const Tensor& index, const Tensor& x) {
  const std::int64_t rows = y.size(0), cols = y.size(1);
  const std::int32_t* to = checked_indices("index_add", index, rows);
  if (index.numel() == 0 || cols == 0) return;
  const Groups groups = group_by_destination(to, index.numel(), rows);
  NIBBLE_FLOAT_SWITCH(y.dtype(), "index_add", D, {
    NIBBLE_FLOAT_SWITCH(x.dtype(), "index_add", T, {
      if constexpr (sizeof(T) <= sizeof(D)) {
        const T* in = x.data<T>();
        sum_by_destination(
            y.data<D>(), rows, cols, groups, [=](compute_t<D>* total, std::int64_t source) {
              map_range(
                  total, 0, cols, [](auto a, auto b) { return a + b; }, total, in + source * cols);
            });
      }
    });
  });
}

void take_along_last(Tensor& y, const Tensor& x, const Tensor& index) {
  const std::int64_t cols = x.cols();
  const std::int32_t* at = checked_indices("take_along_last", index, cols);
  NIBBLE_FLOAT_SWITCH(y.dtype(), "take_along_last", T, {
    T* out = y.data<T>();
    const T* in = x.data<T>();
    parallel_for(index.numel(), kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i] = in[i * cols + at[i]];
    });
  });
}

void take_along_last_backward(Tensor& dx, const Tensor& dy, const Tensor& index) {
  const std::int64_t cols = dx.cols();
  const std::int32_t* at = checked_indices("take_along_last_backward", index, cols);
  NIBBLE_FLOAT_SWITCH(dx.dtype(), "take_along_last_backward", T, {
    T* out = dx.data<T>();
    const T* grad = dy.data<T>();
    parallel_for(index.numel(), kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i) out[i * cols + at[i]] = grad[i];
    });
  });
}

void zero_along_last(Tensor& x, const Tensor& index) {
  const std::int64_t cols = x.cols();
  const std::int32_t* at = index.data<std::int32_t>();
  NIBBLE_FLOAT_SWITCH(x.dtype(), "zero_along_last", T, {
    T* out = x.data<T>();
    parallel_for(index.numel(), kGrain, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        if (at[i] >= 0 && at[i] < cols) out[i * cols + at[i]] = T(compute_t<T>(0));
    });
  });
}

void add_bias(Tensor& y, const Tensor& bias) {
  const std::int64_t cols = y.size(1);
  NIBBLE_FLOAT_SWITCH(y.dtype(), "add_bias", T, {
    T* out = y.data<T>();
    const T* b = bias.data<T>();
    parallel_for(y.size(0), row_grain(cols), [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t r = begin; r < end; ++r)
        map_range(
            out + r * cols, 0, cols, [](auto v, auto w) { return v + w; }, out + r * cols, b);
    });
  });
}

}  // namespace nibble::cpu
