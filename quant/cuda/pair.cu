// quant_pair: the plain kernels, and which kernel serves a call.
#include "quant/cuda/pair.cuh"

namespace nibble::cuda {
namespace {

using namespace pair;

template <class T>
T* address_of(const Tensor& x) {
  return x.defined() ? const_cast<T*>(x.data<T>()) : nullptr;
}
template <class T>
T* codes_of(const Tensor& x) {
  return x.defined() ? reinterpret_cast<T*>(const_cast<std::byte*>(x.raw())) : nullptr;
}

template <class T>
void pair_of(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes, Tensor& column_scales,
             Tensor& value, const Tensor& sums, const PairSource& s, const QuantSpec& by_row,
             const QuantSpec& by_column, const RngKey& key) {
  const std::int64_t rows = s.x.size(0), cols = s.x.size(1);
  const std::int64_t run = by_column.resolve(cols, rows).cols;
  const bool whole = by_row.resolve(rows, cols).cols == cols;
  Arguments<T> a{
      .x = s.x.data<T>(),
      .other = address_of<T>(s.dy),
      .value = address_of<T>(value),
      .row_codes = codes_of<std::uint8_t>(row_codes),
      .column_codes = codes_of<std::uint8_t>(column_codes),
      .row_steps = row_scales.data<float>(),
      .column_steps = address_of<float>(column_scales),
      .sums = address_of<float>(sums),
      .rows = checked_extent(rows),
      .cols = checked_extent(cols),
      .width = 0,
      .runs = static_cast<std::uint32_t>(ceil_div(rows, run)),
      .down = static_cast<std::uint32_t>(run / pair::kRows),
      .slices = 0,
      .log_group = whole ? 31u : 7u,
      .groups = 0,
      .row_high = static_cast<float>(by_row.format.qmax()),
      .column_high = static_cast<float>(by_column.format.qmax()),
      .row_rule = one_pass::Rule(by_row),
      .column_rule = one_pass::Rule(by_column),
      .key = key,
      .keys = RoundKeys(key.seed),
  };
  const bool noise = by_row.rounding == Rounding::Stochastic;
  switch (s.kind) {
    case Kind::Plain: return pair::run<Kind::Plain>(a, noise);
    case Kind::LayerNorm:
    case Kind::AddLayerNorm: break;  // quant_norm_rows
    case Kind::Gelu: return pair::run<Kind::Gelu>(a, noise);
    case Kind::GeluBackward: return pair::run<Kind::GeluBackward>(a, noise);
  }
}

}  // namespace

void quant_pair(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes, Tensor& column_scales,
                Tensor& value, Tensor& column_sums, const PairSource& source,
                const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  Tensor sums;
  if (column_sums.defined())
    sums = Tensor::empty({ceil_div(source.x.size(0), kSumRows), source.x.size(1)}, DType::F32,
                         source.x.device());
  NIBBLE_CUDA_FLOAT_SWITCH(source.x.dtype(), "quant_pair", T, {
    pair_of<T>(row_codes, row_scales, column_codes, column_scales, value, sums, source, by_row,
               by_column, key);
  });
  if (sums.defined()) fold_blocks(sums, StoreOrAdd<float>{column_sums.data<float>(), false});
}

}  // namespace nibble::cuda
