// Quantizers, ops without a gradient and training steps among guard bytes; the table of operations
// has its own driver (test_op_sentinels.cpp).
#include "sentinel_runs.h"

using namespace nibble;
using namespace nibble::testing;

TEST_CASE("optim: training writes all of its buffers and nothing beside them") {
  check_everything_among_sentinels(kCpu);
}
