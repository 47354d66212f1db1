// e4m3 and e5m2 by runs along rows.
#include "quant/cuda/row_runs.cuh"

namespace nibble::cuda::one_pass {

template <class Out, class T>
void float8_row_runs(Out* out, float* steps, const Tensor& x, const QuantSpec& spec) {
  const int vectors = run_vectors(x, spec);
  with_lanes(vectors, [&](auto lanes, auto each) {
    constexpr int kLanes = lanes.value, kEach = each.value;
    if (spec.format.exponent_bits() == 4)
      run<Out, T, kLanes, kEach, Quotients::Divide, false, Float8Codes<4, 3>>(out, steps, x,
                                                                              vectors, spec, {});
    else
      run<Out, T, kLanes, kEach, Quotients::Divide, false, Float8Codes<5, 2>>(out, steps, x,
                                                                              vectors, spec, {});
  });
}

template void float8_row_runs<std::uint8_t, float>(std::uint8_t*, float*, const Tensor&,
                                                   const QuantSpec&);
template void float8_row_runs<std::uint8_t, bfloat16>(std::uint8_t*, float*, const Tensor&,
                                                      const QuantSpec&);
template void float8_row_runs<float, float>(float*, float*, const Tensor&, const QuantSpec&);
template void float8_row_runs<bfloat16, bfloat16>(bfloat16*, float*, const Tensor&,
                                                  const QuantSpec&);

}  // namespace nibble::cuda::one_pass
