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

// `rows` of one y row, summed in its compute type and rounded once.
template <class D, class C, class F>
void add_rows(D* y, std::vector<C>& total, F rows) {
  const auto cols = static_cast<std::int64_t>(total.size());
  map_range(
      total.data(), 0, cols, [](C v) { return v; }, y);
  rows(total.data());
  map_range(
      y, 0, cols, [](C v) { return v; }, total.data());
}

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
          add_rows(out + i * cols, total,
                   [&](auto* sum) { rows.add_to(sum, at[i], rows.factor(i, at[i])); });
    });
  });
}

void quant_scatter_rows(Tensor& y, const Tensor& index, const Tensor& weight, const Tensor& x,
                        const Tensor& steps) {
  const std::int64_t table = y.size(0), cols = y.size(1);
  const Groups groups = group_by_destination(index.data<std::int32_t>(), index.numel(), table);
  with_rows(y, weight, x, steps, [&]<class D, class Rows>(D, const Rows& rows) {
    D* out = y.data<D>();
    parallel_for(table, row_grain(cols), [&](std::int64_t begin, std::int64_t end) {
      std::vector<compute_t<D>> total(static_cast<std::size_t>(cols));
      for (std::int64_t d = begin; d < end; ++d) {
        const auto first = groups.start[static_cast<std::size_t>(d)],
                   last = groups.start[static_cast<std::size_t>(d) + 1];
        if (first == last) continue;
        add_rows(out + d * cols, total, [&](auto* sum) {
          for (std::int64_t k = first; k < last; ++k) {
            const std::int64_t row = groups.source[static_cast<std::size_t>(k)];
            rows.add_to(sum, row, rows.factor(row, row));
          }
        });
      }
    });
  });
}

}  // namespace nibble::cpu
