// Updates in backward on a GPU: the bits of updates at the end, eager and recorded.
#include "tests/cuda/lockstep.h"
#include "tests/in_backward_runs.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

void check_steps(When when) {
  for (InBackwardCase c : in_backward_cases()) {
    if (!in_sample()) continue;
    CAPTURE(c.recipe);
    CAPTURE(c.tied);
    CAPTURE(c.checkpointed);
    CAPTURE(c.keeps);
    c.compute = DType::BF16;
    const InBackwardEnd at_end = train_in_backward(c, When::AtEnd, kGpu);
    const InBackwardEnd in_backward = train_in_backward(c, when, kGpu);
    CHECK(in_backward.losses == at_end.losses);
    REQUIRE(in_backward.tensors.size() == at_end.tensors.size());
    for (std::size_t i = 0; i < at_end.tensors.size(); ++i)
      check_bits(at_end.tensors[i].second, in_backward.tensors[i].second, at_end.tensors[i].first);
  }
}

}  // namespace

GPU_TEST("cuda in backward: eager steps give the bits of updates at the end") {
  check_steps(When::InBackward);
}
GPU_TEST("cuda in backward: recorded steps give the bits of updates at the end") {
  check_steps(When::Recorded);
}
