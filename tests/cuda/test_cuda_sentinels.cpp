// Quantizers, ops without a gradient and training steps among guard bytes of the GPU's memory.
#include "tests/cuda/lockstep.h"
#include "tests/sentinel_runs.h"

using namespace nibble;
using namespace nibble::testing;

GPU_TEST("cuda sentinels: training writes all of its buffers and nothing beside them") {
  check_everything_among_sentinels(kGpu);
}
