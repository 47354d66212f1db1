// Delayed scaling on the GPU beside the CPU's. Tier: exact bits.
#include <limits>

#include "quant/scale_history.h"
#include "tests/cuda/number_checks.h"
#include "tests/cuda/quant_inputs.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

// Two steps of a tensor: its own range, then the first step's.
std::vector<Tensor> two_steps(const Tensor& first, const Tensor& second, const QuantSpec& spec) {
  ScaleHistory scales(first.device());
  StepState state(first.device());
  std::vector<Tensor> out;
  std::uint32_t step = 0;
  for (const Tensor& x : {first, second}) {
    state.begin(step++, 1);
    const QTensor q = quantize_delayed(x, spec, RngKey{3, 4, state.step_pointer()},
                                       scales.at("x", spec.calibration.history));
    out.push_back(q.payload());
    out.push_back(q.scales());
    scales.advance(state);
    out.push_back(scales.tensors()[0].second.clone());
  }
  return out;
}

}  // namespace

GPU_TEST("cuda delayed scaling: every format has the CPU's bits") {
  for (const char* format : {"int8", "int5", "uint8", "e4m3", "e5m2", "e2m1", "dyn8"})
    for (const char* options : {"", ":recip", ":sr", ":recip:sr"})
      for (const DType dtype : {DType::F32, DType::BF16})
        for (const Shape& shape : {Shape{64, 96}, Shape{37, 53}, Shape{1, 1}, Shape{300, 1000}}) {
          if (!in_sample()) continue;
          const QuantSpec spec = parse_spec(fmt::format("{}:tensor{}:delayed2", format, options));
          CAPTURE(to_string(spec));
          CAPTURE(shape);
          in_lockstep(
              {numbers(Numbers::Bell, shape[0], shape[1], dtype),
               numbers(Numbers::Heavy, shape[0], shape[1], dtype)},
              [&](const std::vector<Tensor>& in) { return two_steps(in[0], in[1], spec); },
              [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
        }
}

GPU_TEST("cuda delayed scaling: what is not finite shows in the scale, zeros leave it at 1") {
  const QuantSpec spec = parse_spec("e4m3:tensor:delayed3");
  for (const float special : {std::numeric_limits<float>::infinity(), -NAN, 0.0f}) {
    Tensor x = Tensor::zeros({16, 40});
    x.data<float>()[77] = special;
    in_lockstep(
        {x, uniform({16, 40})},
        [&](const std::vector<Tensor>& in) { return two_steps(in[0], in[1], spec); },
        [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
  }
}
