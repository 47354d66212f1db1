// Producers that quantize for the layer behind them: the same bits as layers that encode for
// themselves. Tier: exact.
#include <doctest/doctest.h>

#include <algorithm>

#include "gpt2_steps.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

using testing::same_bits;
using testing::small_gpt2;
using testing::Steps;
using testing::train_small_gpt2;

void check_same(const Steps& a, const Steps& b) {
  CHECK(a.losses == b.losses);
  REQUIRE(a.gradients.size() == b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i)
    CHECK_MESSAGE(same_bits(a.gradients[i].second, b.gradients[i].second), a.gradients[i].first);
  for (std::size_t i = 0; i < a.weights.size(); ++i)
    CHECK_MESSAGE(same_bits(a.weights[i].second, b.weights[i].second), a.weights[i].first);
}

bool has(const Steps& steps, const std::string& handover) {
  return std::ranges::find(steps.handovers, handover) != steps.handovers.end();
}

TEST_CASE("gpt2: a step whose producers quantize has the bits of one where layers do") {
  for (const std::string recipe : {"int8", "int8_block128", "int8_rowwise", "int8,lm_head=on",
                                   "int8,layer:*.mlp.fc2=none,layer:*.attn.qkv=w8a8g8"})
    for (const DType compute : {DType::F32, DType::BF16}) {
      CAPTURE(recipe);
      const Gpt2Config config = small_gpt2(compute);
      check_same(train_small_gpt2(recipe, config, kCpu, 3),
                 train_small_gpt2(recipe + ",fuse=off", config, kCpu, 3));
    }
}

TEST_CASE("gpt2: producers quantize what the layers behind them multiply") {
  const Gpt2Config config = small_gpt2(DType::BF16);
  const Steps steps = train_small_gpt2("int8", config, kCpu, 1);
  for (const std::string block : {"blocks.0", "blocks.1"}) {
    CAPTURE(block);
    CHECK(has(steps, "x of " + block + ".attn.qkv by layer_norm"));
    CHECK(has(steps, "x of " + block + ".mlp.fc1 by layer_norm"));
    CHECK(has(steps, "x of " + block + ".mlp.fc2 by gelu"));
    CHECK(has(steps, "dy of " + block + ".mlp.fc1 by gelu"));
  }
  CHECK(steps.handovers.size() == 8);
  const Steps with_head = train_small_gpt2("int8,lm_head=on", config, kCpu, 1);
  CHECK(with_head.handovers.size() == 9);
  CHECK(has(with_head, "x of lm_head by layer_norm"));
  CHECK(train_small_gpt2("int8,fuse=off", config, kCpu, 1).handovers.empty());
  CHECK(train_small_gpt2("w8a8g8", config, kCpu, 1).handovers.empty());
}

TEST_CASE("gpt2: a step that makes activations again has the bits of one that keeps them") {
  for (const std::string recipe :
       {"int8,save=encoded", "int8_block128", "none", "int8,save=encoded,lm_head=on"})
    for (const bool checkpoints : {false, true}) {
      CAPTURE(recipe);
      CAPTURE(checkpoints);
      Gpt2Config config = small_gpt2(DType::BF16);
      config.attention_dropout = 0.1;
      config.residual_dropout = checkpoints ? 0.1 : 0;  // 0: sums are made again as well
      const Steps kept = train_small_gpt2(recipe, config, kCpu, 2);
      config.checkpoint_blocks = checkpoints;
      for (const char* more :
           {",save=recompute", ",save=recompute,layer:*.mlp.fc1/output=recompute",
            ",output=recompute"})
        check_same(kept, train_small_gpt2(recipe + more, config, kCpu, 2));
      config.recompute = Recompute::Sums;
      for (const int blocks : {-1, 0, 1}) {
        config.recompute_blocks = blocks;
        check_same(kept, train_small_gpt2(recipe, config, kCpu, 2));
      }
    }
}

TEST_CASE("gpt2: producers quantize under dropout and in recomputed blocks") {
  for (const bool checkpoints : {false, true}) {
    CAPTURE(checkpoints);
    Gpt2Config config = small_gpt2(DType::BF16);
    config.embedding_dropout = config.attention_dropout = config.residual_dropout = 0.1;
    config.checkpoint_blocks = checkpoints;
    check_same(train_small_gpt2("int8", config, kCpu, 2),
               train_small_gpt2("int8,fuse=off", config, kCpu, 2));
  }
}

}  // namespace
}  // namespace nibble
