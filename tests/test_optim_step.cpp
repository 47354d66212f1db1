// A whole training step's bits: the same at any number of threads, the same in every run.
#include <doctest/doctest.h>

#include "autograd/context.h"
#include "gpt2_golden.h"
#include "optim/adam.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

// Parameters and states after two steps of a tiny GPT-2.
std::vector<Tensor> trained(const std::string& words, std::uint64_t seed = 1) {
  const Recipe recipe = recipes::parse(words);
  // Larger than the kernels' chunks (256 rows, 2^14 elements), so that threads do share the work.
  Gpt2Config config = testing::tiny_gpt2();
  config.layers = 1, config.width = 128, config.vocab = 300, config.context = 56;
  config.embedding_dropout = config.attention_dropout = config.residual_dropout = 0.1;
  config.token_chunk = 64;
  Gpt2 model(config, recipe, seed);
  for (Parameter* p : parameters(model)) {
    if (p->shape().rank() < 2) continue;
    if (recipe.weights == WeightStorage::BF16) set_weight_storage(*p, DType::BF16);
    if (recipe.weights == WeightStorage::Int8) set_weight_storage_int8(*p);
  }
  AdamOptions options{.seed = seed};
  options.m.codec = find_codec(recipe.moments.m), options.v.codec = find_codec(recipe.moments.v);
  AdamW adam({{parameters(model), 1, 0.1}}, options);
  StepState state;
  Tape tape;
  for (std::uint32_t step = 0; step < 2; ++step) {
    state.begin(step, 1e-3);
    for (std::uint32_t micro = 0; micro < 2; ++micro) {
      const ForwardScope scope(
          {.training = true, .seed = seed, .step = state.step_pointer(), .micro_step = micro});
      const std::string name = fmt::format("{}.{}", step, micro);
      const Tape::Recording recording(tape);
      tape.backward(model.loss(testing::golden_tokens("ids" + name, {5, 56}, config.vocab),
                               testing::golden_tokens("targets" + name, {5, 56}, config.vocab)));
    }
    clip_gradients(parameters(model), 1, state);
    CHECK_FALSE(state.read().bad);
    adam.step(state);
  }
  std::vector<Tensor> out;
  for (Parameter* p : parameters(model)) {
    if (!p->is_quantized()) {
      out.push_back(p->storage());
      continue;
    }
    out.push_back(p->quantized().payload());
    out.push_back(p->quantized().scales());
  }
  for (const auto& [name, tensor] : adam.state_tensors()) out.push_back(tensor);
  return out;
}

bool same(const std::vector<Tensor>& a, const std::vector<Tensor>& b) {
  if (a.size() != b.size()) return false;
  for (std::size_t i = 0; i < a.size(); ++i)
    if (!testing::same_bits(a[i], b[i])) return false;
  return true;
}

TEST_CASE("optim: training steps have the same bits at 1, 2 and 4 threads") {
  const testing::ThreadsGuard guard;
  for (const char* recipe :
       {"none", "int8", "int8_rowwise,lm_head=on", "int8_block32,lm_head=on", "fp8_tensorwise",
        "w8a8g8", "w8a8g8,moments.m=int4:row:sr", "int8,weights=bf16", "int8,weights=int8"}) {
    CAPTURE(std::string(recipe));
    set_num_threads(1);
    const auto one = trained(recipe);
    for (const int threads : {2, 4}) {
      CAPTURE(threads);
      set_num_threads(threads);
      CHECK(same(one, trained(recipe)));
    }
  }
}

TEST_CASE("optim: the seed decides a training step's bits") {
  CHECK(same(trained("int8"), trained("int8")));
  CHECK_FALSE(same(trained("int8"), trained("int8", 2)));
}

}  // namespace
}  // namespace nibble
