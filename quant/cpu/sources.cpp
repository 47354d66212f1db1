// What producers make of a matrix, then encoded as it stands: the definition of source_kernels.h.
#include <cmath>

#include "quant/pair_twin.h"
#include "quant/source_kernels.h"
#include "tensor/cpu/loops.h"

namespace nibble::cpu {
namespace {

// layer_norm's values by statistics that it wrote.
template <class T>
void normalise(Tensor& y, const PairSource& s) {
  const std::int64_t n = s.x.size(1);
  const T *in = s.x.data<T>(), *scale = s.gamma.data<T>();
  const T* shift = s.beta.defined() ? s.beta.data<T>() : nullptr;
  const float *mean = s.mean.data<float>(), *rstd = s.rstd.data<float>();
  T* out = y.data<T>();
  parallel_for(s.x.size(0), row_grain(n), [=](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      const float mu = mean[r], inverse = rstd[r];
      if (shift)
        map_range(
            out + r * n, 0, n,
            [=](float v, float g, float b) { return std::fma((v - mu) * inverse, g, b); },
            in + r * n, scale, shift);
      else
        map_range(
            out + r * n, 0, n, [=](float v, float g) { return (v - mu) * inverse * g; }, in + r * n,
            scale);
    }
  });
}

}  // namespace

void quant_norm_rows(Tensor& codes, Tensor& scales, const PairSource& source,
                     const QuantSpec& spec) {
  quant_row_runs(codes, scales, pair_matrix(source, Tensor()), spec, {});
}

void quant_source_columns(Tensor& codes, Tensor& scales, const PairSource& source,
                          const QuantSpec& spec, const RngKey& key) {
  using enum PairSource::Kind;
  const Tensor& x = source.x;
  if (source.kind == Plain) return quant_column_runs(codes, scales, x, spec, key);
  Tensor y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (source.kind == Gelu)
    gelu_tanh(y, x);
  else if (x.dtype() == DType::BF16)
    normalise<bfloat16>(y, source);
  else
    normalise<float>(y, source);
  quant_column_runs(codes, scales, y, spec, key);
}

}  // namespace nibble::cpu
