// quant_pair: the plain kernels, and which kernel serves a call.
#include "quant/cuda/gelu_rows.h"
#include "quant/cuda/pair_stream.cuh"

namespace nibble::cuda {
namespace {

using Kind = PairSource::Kind;

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
  using stream_pair::kColumns;
  const std::int64_t rows = s.x.size(0), cols = s.x.size(1);
  const std::int64_t run = by_column.resolve(cols, rows).cols, runs = ceil_div(rows, run);
  const std::int64_t across = ceil_div(cols, kColumns);
  const bool whole = by_row.resolve(rows, cols).cols == cols;
  const std::int64_t together = whole ? across : 128 / kColumns,
                     groups = ceil_div(across, together);
  const Tensor found = Tensor::empty({groups * (rows + runs)}, DType::I32, s.x.device());
  auto* const words = codes_of<std::uint32_t>(found);
  const auto map_of = [&](const Tensor& x) {
    return box_map(x.raw(), rows, cols, sizeof(T), static_cast<std::uint32_t>(run), kColumns);
  };
  const auto both_halves = [](const Format& f) {
    return static_cast<std::uint32_t>(f.qmax()) * 0x10001u;
  };
  const bool backward = s.kind == Kind::GeluBackward;
  const one_pass::Rule row_rule(by_row), column_rule(by_column);
  stream_pair::Arguments<T> a{
      .x = map_of(s.x),
      .other = map_of(backward ? s.dy : s.x),
      .value = address_of<T>(value),
      .row_codes = codes_of<std::uint8_t>(row_codes),
      .column_codes = codes_of<std::uint8_t>(column_codes),
      .row_steps = row_scales.data<float>(),
      .column_steps = address_of<float>(column_scales),
      .sums = address_of<float>(sums),
      .row_most = words,
      .arrived = words + groups * rows,
      .clears = checked_extent(found.numel()),
      .rows = checked_extent(rows),
      .cols = checked_extent(cols),
      .runs = static_cast<std::uint32_t>(runs),
      .across = static_cast<std::uint32_t>(across),
      .together = static_cast<std::uint32_t>(together),
      .groups = static_cast<std::uint32_t>(groups),
      .expected = 0,
      .encodes = true,
      .row_high = static_cast<float>(by_row.format.qmax()),
      .column_high = static_cast<float>(by_column.format.qmax()),
      .row_inverse = 1.0f / row_rule.step.parts,
      .column_inverse = 1.0f / column_rule.step.parts,
      .row_pair = both_halves(by_row.format),
      .column_pair = both_halves(by_column.format),
      .row_rule = row_rule,
      .column_rule = column_rule,
      .keys = KeyedDraws(key),
  };
  const bool longer = run == 256, noise = by_row.rounding == Rounding::Stochastic;
  if (s.kind == Kind::Plain)
    stream_pair::run<Kind::Plain>(a, longer, noise);
  else if (s.kind == Kind::Gelu)
    stream_pair::run<Kind::Gelu>(a, longer, noise);
  else
    stream_pair::run<Kind::GeluBackward>(a, longer, noise);
}

}  // namespace

void quant_pair(Tensor& row_codes, Tensor& row_scales, Tensor& column_codes, Tensor& column_scales,
                Tensor& value, Tensor& column_sums, const PairSource& source,
                const QuantSpec& by_row, const QuantSpec& by_column, const RngKey& key) {
  const Tensor& x = source.x;
  const bool rows_alone = !column_codes.defined() && !value.defined() && !column_sums.defined();
  if (rows_alone && source.kind == Kind::Gelu && has_row_runs(by_row, x.size(0), x.size(1)))
    return gelu_row_runs(row_codes, row_scales, x, by_row);
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
