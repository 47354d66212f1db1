// Quantizers, ops without a gradient and training steps among guard bytes of the GPU's memory.
#include "tests/cuda/lockstep.h"
#include "tests/sentinel_runs.h"

using namespace nibble;
using namespace nibble::testing;

GPU_TEST("cuda sentinels: training writes all of its buffers and nothing beside them") {
  check_everything_among_sentinels(kGpu);
}

GPU_TEST("cuda sentinels: a model's two passes neither copy to the host nor wait for the device") {
  for (const char* recipe : {"int8", "none", "w8a8g8"})
    for (const DType compute : {DType::BF16, DType::F32}) {
      if (!in_sample()) continue;
      CAPTURE(recipe);
      CAPTURE(compute);
      Gpt2 model(small_model(compute), recipes::parse(recipe), 42, kGpu);
      const Tensor ids = Tensor::uniform({2, 32}, 0, 150, RngKey{5, 1}).to(DType::I32).to(kGpu);
      const ForwardScope scope({.training = true, .seed = 9});
      Tape tape;
      const Tape::Recording recording(tape);
      const std::uint64_t before = cuda::copies_to_host();
      tape.backward(model.loss(ids, ids));
      CHECK(cuda::copies_to_host() == before);
    }
}
