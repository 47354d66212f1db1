// GPT-2's training loop by hand, on the bytes of a text file:
//   example_gpt2_loop FILE [RECIPE] [STEPS]
#include <cstdio>
#include <cstdlib>

#include "autograd/context.h"
#include "data/byte_source.h"
#include "data/tokenizer.h"
#include "models/gpt2.h"
#include "optim/adam.h"
#include "optim/schedule.h"

using namespace nibble;

namespace {

constexpr std::uint64_t kSeed = 7;
constexpr std::int64_t kBatch = 4, kLength = 64, kAccumulation = 2;

// Windows from random places of the text; the targets are the inputs, one place on.
std::pair<Tensor, Tensor> windows(const std::vector<std::int32_t>& text, std::uint32_t step,
                                  std::uint32_t micro) {
  std::vector<std::int32_t> inputs, targets;
  for (std::uint32_t row = 0; row < kBatch; ++row) {
    const Philox draw = philox4x32_10(row, micro, step, rng_site("data", "window"), kSeed);
    const auto begin = static_cast<std::ptrdiff_t>(draw.v[0] % (text.size() - kLength));
    inputs.insert(inputs.end(), text.begin() + begin, text.begin() + begin + kLength);
    targets.insert(targets.end(), text.begin() + begin + 1, text.begin() + begin + kLength + 1);
  }
  return {Tensor::from(inputs, {kBatch, kLength}), Tensor::from(targets, {kBatch, kLength})};
}

void train(const std::string& file, const Recipe& recipe, int steps) {
  const ByteTokenizer tokenizer;
  const std::vector<std::int32_t> text = tokenizer.encode(read_whole_file(file));
  NIBBLE_CHECK(text.size() > kLength, "example", "{} is too short", file);

  const Gpt2Config config{
      .vocab = tokenizer.vocab_size(), .context = kLength, .layers = 2, .heads = 2, .width = 64};
  Gpt2 model(config, recipe, kSeed);
  std::vector<ParameterGroup> groups{{.parameters = {}, .weight_decay = 0.1}, {}};
  for (Parameter* p : parameters(model)) groups[model.decays(*p) ? 0 : 1].parameters.push_back(p);
  AdamW adam(groups, {.m = {.name = "m", .codec = find_codec(recipe.moments.m)},
                      .v = {.name = "v", .codec = find_codec(recipe.moments.v)},
                      .seed = kSeed});
  const Schedule schedule{.peak = 3e-3, .warmup = 10, .total = steps};

  StepState state;
  Tape tape;
  for (int step = 0; step < steps; ++step) {
    state.begin(static_cast<std::uint32_t>(step), schedule(step));
    double loss_value = 0;
    for (std::uint32_t micro = 0; micro < kAccumulation; ++micro) {
      const auto [ids, targets] = windows(text, static_cast<std::uint32_t>(step), micro);
      const ForwardScope scope(
          {.training = true, .seed = kSeed, .step = state.step_pointer(), .micro_step = micro});
      const Tape::Recording recording(tape);
      const Var loss = model.loss(ids, targets) * (1.0 / kAccumulation);
      loss_value += loss.item();
      tape.backward(loss);  // adds to the gradients until the optimizer takes them
    }
    const double norm = clip_gradients(parameters(model), 1.0, state);
    adam.step(state);
    if (step % 10 == 0 || step + 1 == steps)
      fmt::print("step {:3}  loss {:.4f}  gradient {:.3f}\n", step, loss_value, norm);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2 || argc > 4) {
    fmt::print(stderr, "usage: {} FILE [RECIPE] [STEPS]\n", argv[0]);
    return 2;
  }
  try {
    train(argv[1], recipes::parse(argc > 2 ? argv[2] : "int8"), argc > 3 ? std::atoi(argv[3]) : 60);
  } catch (const std::exception& e) {
    fmt::print(stderr, "error: {}\n", e.what());
    return 1;
  }
}
