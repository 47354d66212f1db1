// Recorded steps: replays equal eager work bit for bit (tier: exact), keep their memory to
// themselves, and refuse what could not be repeated.
#include "autograd/context.h"
#include "autograd/tape.h"
#include "models/gpt2.h"
#include "optim/adam.h"
#include "optim/encodings.h"
#include "tensor/recorded_work.h"
#include "tests/cuda/lockstep.h"

using namespace nibble;
using namespace nibble::testing;

namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

struct Training {
  Named end;                     // weights and states
  std::vector<StepScalars> log;  // of every step
};

// Between replays others look at weights, and somebody says that they have changed.
void disturb(Gpt2& model) {
  const QuantSpec other = parse_spec("int8:row:sr");
  for (Parameter* p : parameters(model)) {
    if (p->shape().rank() == 2) (void)p->encoded(other, false, {3, 4});
    p->bump_version();
    if (p->shape().rank() == 2) (void)p->encoded(other, true, {3, 4});
  }
}

// Updates of two micro-batches each; one step is spoilt from outside and must change nothing.
Training train(const std::string& recipe_text, const std::string& moments, bool recorded,
               double dropout, bool keep = true, bool checkpoint_blocks = false) {
  constexpr std::uint32_t kMicro = 2;
  const std::uint32_t steps = sampled_count(6, 3), bad = steps > 3 ? 2 : 1;
  const Recipe recipe = recipes::parse(recipe_text);
  Gpt2Config c;
  c.vocab = 300, c.context = 64, c.layers = sampled_count(2, 1), c.heads = 2, c.width = 128;
  c.compute = DType::BF16, c.token_chunk = 128, c.checkpoint_blocks = checkpoint_blocks;
  c.embedding_dropout = c.attention_dropout = c.residual_dropout = dropout;
  Gpt2 model(c, recipe, 42, kGpu);
  AdamOptions options;
  options.m.codec = find_codec(moments);
  options.v.codec = find_codec(moments == "dyn8:group256" ? "dynu8:group256:sr:recip" : moments);
  AdamW adam({{parameters(model), 1, 0.1}}, options);
  StepState state(kGpu);
  Tape tape;
  std::vector<Tensor> batches;
  for (std::uint32_t i = 0; i < kMicro; ++i)
    batches.push_back(Tensor::zeros({4, 64}, DType::I32, kGpu));
  const auto queue = [&] {
    for (std::uint32_t micro = 0; micro < kMicro; ++micro) {
      const ForwardScope scope(
          {.training = true, .seed = 9, .step = state.step_pointer(), .micro_step = micro});
      const Tape::Recording recording(tape);
      const Tensor& ids = batches[static_cast<std::size_t>(micro)];
      const Var loss = model.loss(ids, ids);
      accumulate_loss(state, loss.tensor(), kMicro);
      tape.backward(loss, Tensor::full(loss.shape(), 1.0 / kMicro, loss.dtype(), kGpu));
    }
    queue_clip_gradients(parameters(model), 1, state);
    adam.step(state);
  };
  RecordedWork work(kGpu);
  Training out;
  for (std::uint32_t step = 0; step < steps; ++step) {
    state.begin(step, 3e-3);
    if (step == bad) state.mark_bad();
    for (std::uint32_t i = 0; i < kMicro; ++i)
      batches[i].copy_from(Tensor::uniform({4, 64}, 0, 300, RngKey{5, 1 + step * kMicro + i})
                               .to(DType::I32)
                               .to(kGpu));
    if (recorded && step > 0) {
      // Encodings of every step's own, or those that each one leaves to the next.
      if (keep)
        keep_encodings(parameters(model));
      else if (!work.recorded())
        for (Parameter* p : parameters(model)) p->bump_version();
      if (!work.recorded()) work.record(queue);
      work.replay();
      if (!keep)
        for (Parameter* p : parameters(model)) p->bump_version();
      else if (step == 3)
        disturb(model);
    } else {
      queue();
    }
    out.log.push_back(state.read());
    state.clear_bad();
  }
  for (Parameter* p : parameters(model)) out.end.emplace_back(p->name, p->dense().to(kCpu).clone());
  for (const auto& [name, tensor] : adam.state_tensors())
    out.end.emplace_back(name, tensor.to(kCpu).clone());
  CHECK(adam.updates() == steps - 1);
  CHECK(adam.skipped() == 1);
  return out;
}

void check_same(const Training& a, const Training& b) {
  for (std::size_t i = 0; i < a.log.size(); ++i) {
    CHECK(a.log[i].loss == b.log[i].loss);
    CHECK(a.log[i].norm == b.log[i].norm);
    CHECK(a.log[i].bad == b.log[i].bad);
  }
  for (std::size_t i = 0; i < a.end.size(); ++i)
    check_bits(a.end[i].second, b.end[i].second, a.end[i].first);
}

void check_recorded(const std::string& moments) {
  for (const char* recipe :
       {"int8,lm_head=on", "int8", "none", "w8a8g8", "int8,weights=int8", "none,weights=bf16",
        "int8_block128", "int8_rowwise,weights=bf16", "fp8_rowwise",
        "fp8_rowwise,lm_head=on,layer:lm_head/dgrad.lhs=e5m2:row:sr:recip"})
    for (const double dropout : {0.0, 0.1}) {
      if (!in_sample()) continue;
      CAPTURE(recipe);
      CAPTURE(moments);
      CAPTURE(dropout);
      check_same(train(recipe, moments, false, dropout),
                 train(recipe, moments, true, dropout, moments[0] != 'i'));
    }
}

}  // namespace

GPU_TEST("cuda graph: recorded training gives the bits of eager training, moments in f32") {
  check_recorded("f32");
}
GPU_TEST("cuda graph: recorded training gives the bits of eager training, moments of 8 bits") {
  check_recorded("dyn8:group256");
}
GPU_TEST("cuda graph: recorded training gives the bits of eager training, stochastic moments") {
  check_recorded("int8:group128:sr");
}

GPU_TEST("cuda graph: what is made again in backward has the bits of what is kept") {
  for (const std::string recipe : {"int8,save=encoded", "none"}) {
    if (!in_sample()) continue;
    const Training kept = train(recipe, "f32", false, 0.1);
    for (const char* more : {",save=recompute", ",save=recompute,output=recompute", ""})
      for (const bool recorded : {true, false}) {
        if (!in_sample()) continue;
        CAPTURE(recipe);
        CAPTURE(more);
        const bool blocks = std::string(more).empty();
        check_same(kept, train(recipe + more, "f32", recorded, 0.1, true, blocks));
      }
  }
}

GPU_TEST("cuda graph: a replay's memory is nobody else's") {
  const std::int64_t n = 1 << 20;
  const Tensor x = uniform({n}).to(kGpu);
  Tensor y = Tensor::zeros({n}, DType::F32, kGpu);
  const auto work = [&] {
    const Tensor a = ops::affine(x, 2), b = ops::mul(a, a);
    y.copy_from(ops::add(a, b));
  };
  work();
  const Tensor expected = y.to(kCpu).clone();
  RecordedWork recorded(kGpu);
  recorded.record(work);
  y.fill(0);
  std::vector<Tensor> others;
  for (int i = 0; i < 8; ++i) others.push_back(Tensor::full({n}, 7, DType::F32, kGpu));
  recorded.replay();
  check_bits(expected, y.to(kCpu));
  for (const Tensor& other : others) CHECK(ops::max(other).item() == 7);
  for (const Tensor& other : others) CHECK(ops::sum(other).item() == 7.0 * static_cast<double>(n));
}

GPU_TEST("cuda graph: a condition is decided by the device at each replay") {
  StepState state(kGpu);
  Tensor y = Tensor::zeros({4}, DType::F32, kGpu);
  const Tensor one = Tensor::full({4}, 1, DType::F32, kGpu);
  RecordedWork recorded(kGpu);
  recorded.record([&] { state.unless_bad([&] { ops::axpy(y, one); }); });
  CHECK(y.to_vector() == std::vector<float>(4, 0));  // recording runs nothing
  recorded.replay();
  recorded.replay();
  CHECK(y.to_vector() == std::vector<float>(4, 2));
  state.mark_bad();
  recorded.replay();
  CHECK(y.to_vector() == std::vector<float>(4, 2));
  state.clear_bad();
  recorded.replay();
  CHECK(y.to_vector() == std::vector<float>(4, 3));
}

GPU_TEST("cuda graph: copies from and to the host are refused, and the stream survives") {
  const Tensor x = uniform({64}).to(kGpu);
  RecordedWork recorded(kGpu);
  CHECK_THROWS_WITH_AS(recorded.record([&] { (void)x.to(kCpu); }),
                       doctest::Contains("recorded step"), Error);
  CHECK_THROWS_WITH_AS(recorded.record([&] { (void)Tensor::arange(5, DType::F32, kGpu); }),
                       doctest::Contains("recorded step"), Error);
  StepState state(kGpu);
  CHECK_THROWS_AS(recorded.record([&] { state.unless_bad([&] { (void)x.to(kCpu); }); }), Error);
  CHECK_FALSE(recorded.recorded());
  CHECK_THROWS_AS(recorded.replay(), Error);
  CHECK(ops::add(x, x).to_vector().size() == 64);
}
