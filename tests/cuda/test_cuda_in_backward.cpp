// Updates in backward on a GPU: the bits of updates at the end, eager and recorded.
#include "tests/cuda/lockstep.h"
#include "tests/in_backward_runs.h"

using namespace nibble;
using namespace nibble::testing;

GPU_TEST("cuda in backward: eager and recorded steps give the bits of updates at the end") {
  for (InBackwardCase c : in_backward_cases()) {
    if (!in_sample()) continue;
    CAPTURE(c.recipe);
    CAPTURE(c.tied);
    CAPTURE(c.checkpointed);
    c.compute = DType::BF16;
    const InBackwardEnd at_end = train_in_backward(c, When::AtEnd, kGpu);
    for (const When when : {When::InBackward, When::Recorded}) {
      CAPTURE(when == When::Recorded);
      const InBackwardEnd in_backward = train_in_backward(c, when, kGpu);
      CHECK(in_backward.losses == at_end.losses);
      REQUIRE(in_backward.tensors.size() == at_end.tensors.size());
      for (std::size_t i = 0; i < at_end.tensors.size(); ++i)
        check_bits(at_end.tensors[i].second, in_backward.tensors[i].second,
                   at_end.tensors[i].first);
    }
  }
}

GPU_TEST("cuda in backward: clips and norms of single parameters are the CPU's") {
  const Tensor squares = Tensor::from(std::vector{4.0, 9.0, 0.25}, {3});
  in_lockstep(
      {squares},
      [&](const std::vector<Tensor>& in) {
        StepState state(in[0].device());
        state.begin(0, 1);
        Tensor total = Tensor::zeros({1}, DType::F64, in[0].device());
        std::vector<Tensor> out;
        for (std::int64_t i = 0; i < 3; ++i) {
          const Tensor own = in[0].slice(0, i, i + 1);
          NIBBLE_DISPATCH(in[0].device(), clip_parameter(state.scalars(), total, own, 1.5));
          const StepScalars s = state.read();
          out.push_back(Tensor::from(std::vector{static_cast<double>(s.clip), s.norm}, {2}));
        }
        return out;
      },
      [](const Tensor& cpu, const Tensor& gpu) { check_bits(cpu, gpu); });
}
