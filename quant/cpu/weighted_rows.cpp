// Rows with weights, of values or of codes with one step a row.
#include "quant/kernels.h"
#include "tensor/cpu/loops.h"
#include "tensor/cpu/row_groups.h"

namespace nibble::cpu {
namespace {

// A row of x̂ times its weight: `factor` is weight · step.
template <class C, class T>
struct WeightedRows {
  const T* x;
  const float* steps;  // one a row of x, or null
  const C* weight;
  std::int64_t cols;

  C factor(std::int64_t of, std::int64_t row) const {
    return steps ? weight[of] * static_cast<C>(steps[row]) : weight[of];
  }
  void add_to(C* total, std::int64_t row, C factor) const {
    const T* from = x + row * cols;
#pragma GCC ivdep
    for (std::int64_t c = 0; c < cols; ++c) total[c] = total[c] + static_cast<C>(from[c]) * factor;
  }
};

// fn(y's type, weighted rows) of the types at hand.
template <class F>
void with_rows(const Tensor& y, const Tensor& weight, const Tensor& x, const Tensor& steps, F fn) {
  const float* each = steps.defined() ? steps.data<float>() : nullptr;
  NIBBLE_FLOAT_SWITCH(y.dtype(), "quant_rows", D, {
    using C = compute_t<D>;
    const Tensor w = weight.to(dtype_of<C>);
    if (x.dtype() == DType::I8) {
      fn(D{}, WeightedRows<C, std::int8_t>{x.data<std::int8_t>(), each, w.data<C>(), x.size(1)});
    } else {
      NIBBLE_FLOAT_SWITCH(x.dtype(), "quant_rows", T,
                          fn(D{}, WeightedRows<C, T>{x.data<T>(), each, w.data<C>(), x.size(1)}));
    }
  });
}

}  // namespace

void quant_gather_rows(Tensor& y, const Tensor& index, const Tensor& weight, const Tensor& x,
                       const Tensor& steps) {
  const std::int64_t cols = y.size(1), table = x.size(0);
  const std::int32_t* at = index.data<std::int32_t>();
  with_rows(y, weight, x, steps, [&]<class D, class Rows>(D, const Rows& rows) {
    D* out = y.data<D>();
    parallel_for(y.size(0), row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      std::vector<compute_t<D>> total(static_cast<std::size_t>(cols));
      for (std::int64_t i = begin; i < end; ++i)
        if (at[i] >= 0 && at[i] < table)
          sum_into_row(out + i * cols, total,
                       [&](auto* sum) { rows.add_to(sum, at[i], rows.factor(i, at[i])); });
    });
  });
}

void quant_scatter_rows(Tensor& y, const Tensor& index, const Tensor& weight, const Tensor& x,
                        const Tensor& steps) {
  const std::int64_t table = y.size(0), cols = y.size(1);
  const Groups groups = group_by_destination(index.data<std::int32_t>(), index.numel(), table);
  with_rows(y, weight, x, steps, [&]<class D, class Rows>(D, const Rows& rows) {
    sum_by_destination(y.data<D>(), table, cols, groups, [&](auto* total, std::int64_t source) {
      rows.add_to(total, source, rows.factor(source, source));
    });
  });
}

}  // namespace nibble::cpu
