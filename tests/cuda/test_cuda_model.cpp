// GPT-2 as a whole on both devices: losses, gradients and updates under every kind of recipe.
#include "tests/cuda/lockstep.h"
#include "tests/gpt2_steps.h"
#include "tests/tensor_testing.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

Steps train(const std::string& recipe_text, DType compute, Device device, int steps,
            double dropout = 0) {
  Gpt2Config config = small_gpt2(compute);
  config.embedding_dropout = config.attention_dropout = config.residual_dropout = dropout;
  return train_small_gpt2(recipe_text, config, device, steps);
}

}  // namespace

GPU_TEST("cuda model: initial weights are the CPU's, bit for bit") {
  Gpt2 a(small_gpt2(DType::F32), {}, 42), b(small_gpt2(DType::F32), {}, 42, kGpu);
  const std::vector<Parameter*> pa = parameters(a), pb = parameters(b);
  REQUIRE(pa.size() == pb.size());
  for (std::size_t i = 0; i < pa.size(); ++i)
    check_bits(pa[i]->storage(), pb[i]->storage(), pa[i]->name);
}

GPU_TEST("cuda model: losses, gradients and updates in f32 follow the CPU's") {
  for (const char* recipe : {"int8", "none", "w8a8g8"}) {
    CAPTURE(recipe);
    for (const double dropout : {0.0, 0.1}) {
      if (!in_sample()) continue;
      const Steps cpu = train(recipe, DType::F32, kCpu, 4, dropout),
                  gpu = train(recipe, DType::F32, kGpu, 4, dropout);
      for (std::size_t i = 0; i < cpu.losses.size(); ++i) {
        CAPTURE(i);
        // A quantized code may flip where its input differs in the last bit: later losses drift.
        CHECK(gpu.losses[i] == doctest::Approx(cpu.losses[i]).epsilon(i == 0 ? 1e-5 : 2e-3));
      }
      for (std::size_t i = 0; i < cpu.gradients.size(); ++i) {
        const std::vector<double> c = cpu.gradients[i].second.to_vector<double>(),
                                  g = gpu.gradients[i].second.to_vector<double>();
        double dot = 0, cc = 0, gg = 0;
        for (std::size_t k = 0; k < c.size(); ++k)
          dot += c[k] * g[k], cc += c[k] * c[k], gg += g[k] * g[k];
        if (cc > 0) CHECK_MESSAGE(dot / std::sqrt(cc * gg) > 0.999, cpu.gradients[i].first);
      }
    }
  }
}

GPU_TEST("cuda model: bf16 training follows f32's on the same device") {
  for (const char* recipe : {"int8", "none"}) {
    if (!in_sample()) continue;
    CAPTURE(recipe);
    const Steps wide = train(recipe, DType::F32, kGpu, 6),
                narrow = train(recipe, DType::BF16, kGpu, 6);
    for (std::size_t i = 0; i < wide.losses.size(); ++i)
      CHECK(narrow.losses[i] == doctest::Approx(wide.losses[i]).epsilon(1e-2));
    CHECK(narrow.losses.back() < narrow.losses.front() - 0.3);
  }
}

GPU_TEST("cuda model: two trainings give the same bits") {
  for (const char* recipe : {"int8", "none"}) {
    if (!in_sample()) continue;
    const Steps a = train(recipe, DType::BF16, kGpu, 4, 0.1),
                b = train(recipe, DType::BF16, kGpu, 4, 0.1);
    CHECK(a.losses == b.losses);
    for (std::size_t i = 0; i < a.weights.size(); ++i)
      check_bits(a.weights[i].second, b.weights[i].second, a.weights[i].first);
  }
}

GPU_TEST("cuda model: a step that makes activations again has the bits of one that keeps them") {
  for (const std::string recipe : {"int8,save=encoded", "int8_block128", "none"}) {
    const Steps kept = train(recipe, DType::BF16, kGpu, 3, 0.1);
    for (const char* more : {",save=recompute", ",save=recompute,output=recompute"}) {
      CAPTURE(recipe);
      CAPTURE(more);
      const Steps again = train(recipe + more, DType::BF16, kGpu, 3, 0.1);
      CHECK(kept.losses == again.losses);
      for (std::size_t i = 0; i < kept.gradients.size(); ++i)
        check_bits(kept.gradients[i].second, again.gradients[i].second, kept.gradients[i].first);
    }
  }
}

GPU_TEST("cuda model: a step whose producers quantize has the bits of one where layers do") {
  for (const std::string recipe : {"int8", "int8_block128", "int8,lm_head=on"})
    for (const DType compute : {DType::F32, DType::BF16}) {
      if (!in_sample()) continue;
      CAPTURE(recipe);
      const Steps fused = train(recipe, compute, kGpu, 3, 0.1),
                  apart = train(recipe + ",fuse=off", compute, kGpu, 3, 0.1);
      CHECK(!fused.handovers.empty());
      CHECK(apart.handovers.empty());
      CHECK(fused.losses == apart.losses);
      for (std::size_t i = 0; i < fused.gradients.size(); ++i)
        check_bits(apart.gradients[i].second, fused.gradients[i].second, fused.gradients[i].first);
      for (std::size_t i = 0; i < fused.weights.size(); ++i)
        check_bits(apart.weights[i].second, fused.weights[i].second, fused.weights[i].first);
    }
}
