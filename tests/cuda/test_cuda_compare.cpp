// Models compared layer by layer on the GPU, through the code of the CPU.
#include <algorithm>

#include "apps/compare/layers.h"
#include "models/gpt2.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::compare;
using namespace nibble::testing;

namespace {

std::unique_ptr<Gpt2> model(const std::string& recipe, Device device) {
  Gpt2Config c;
  c.vocab = 300, c.context = 64, c.layers = 2, c.heads = 2, c.width = 128;
  c.embedding_dropout = c.residual_dropout = 0.1;
  return std::make_unique<Gpt2>(c, recipes::parse(recipe), 42, device);
}

Pass batch(Device device) {
  const auto tokens = [&](std::uint32_t site) {
    return Tensor::uniform({2, 64}, 0, 300, RngKey{5, site}).to(DType::I32).to(device);
  };
  return {.ids = tokens(1), .targets = tokens(2), .seed = 9};
}

const Row* first(const std::vector<Row>& rows) { return LayerReport::first(rows); }

}  // namespace

GPU_TEST("cuda compare: both devices compute the same layers") {
  // Tier: bound by the order of accumulation; in f32 no layer may lose more than to 1e-4 of its
  // signal.
  const LayerReport r = compare_with(capture(*model("none", kCpu), batch(kCpu)),
                                     *model("none", kGpu), batch(kGpu), 80, {});
  CHECK(r.only_a.empty());
  CHECK(r.only_b.empty());
  for (const auto* rows : {&r.forward, &r.backward})
    for (const Row& row : *rows)
      CHECK_MESSAGE(!row.diverges, row.name, ": ", row.error.sqnr_db, " dB");
}

GPU_TEST("cuda compare: a model equals itself, and another recipe differs first in its layer") {
  // Tier: exact.
  const Captured a = capture(*model("int8", kGpu), batch(kGpu));
  const LayerReport same = compare_with(a, *model("int8", kGpu), batch(kGpu), 1000, {});
  CHECK(first(same.forward) == nullptr);
  CHECK(first(same.backward) == nullptr);
  const LayerReport other =
      compare_with(capture(*model("none", kGpu), batch(kGpu)),
                   *model("none,layer:blocks.1.mlp.fc1=int8", kGpu), batch(kGpu), 1000, {});
  REQUIRE(first(other.forward));
  CHECK(first(other.forward)->name == "blocks.1.mlp.fc1/linear");
}
