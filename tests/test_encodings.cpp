// Encodings that an update writes again where they lie: the bits of fresh ones (tier: exact), and
// dropped where they could not be.
#include "optim/encodings.h"

#include <doctest/doctest.h>

#include "autograd/context.h"
#include "autograd/linear.h"
#include "gpt2_golden.h"
#include "optim/adam.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

using testing::golden_values;
using testing::same_bits;

Parameter& named(Parameter& p, const char* name) {
  p.name = name;
  return p;
}

struct Stepper {
  std::unique_ptr<Optimizer> optimizer;
  StepState state;
  std::uint32_t count = 0;
  explicit Stepper(std::unique_ptr<Optimizer> o) : optimizer(std::move(o)) {}
  void step(bool bad = false) {
    state.begin(count++, 1e-2);
    if (bad) state.mark_bad();
    for (Parameter* p : optimizer->parameters()) {
      p->grad_buffer().copy_from(golden_values(fmt::format("{}{}", p->name, count), p->shape(), 1));
      p->set_has_grad(true);
    }
    optimizer->step(state);
    state.clear_bad();
  }
};

bool same_codes(const QTensor& a, const QTensor& b) {
  return same_bits(a.payload(), b.payload()) && same_bits(a.scales(), b.scales());
}
// Whether the parameter holds, at the address before, what quantize would make now.
bool fresh(Parameter& p, const std::byte* at, const QuantSpec& spec, bool transposed) {
  const std::size_t forms = p.forms().size();
  const QTensor now = p.encoded(spec, transposed, {});
  return reinterpret_cast<const std::byte*>(now.payload().raw()) == at &&
         p.forms().size() == forms && same_codes(now, quantize(p.storage(), spec, {}, transposed));
}

}  // namespace

TEST_CASE("encodings: an update writes those in use again where they lie") {
  for (const char* text : {"int8:row:recip", "int8:row", "int8:tensor:recip", "int8:block128:recip",
                           "int4:group128", "e4m3:row:recip", "e4m3:tensor", "int8:absmax0.5:row"})
    for (const DType dtype : {DType::F32, DType::BF16})
      for (const bool adam : {true, false}) {
        CAPTURE(text);
        CAPTURE(adam);
        const QuantSpec spec = parse_spec(text);
        Parameter w(golden_values("w", {384, 200}, 0x1p-18f).to(dtype));
        named(w, "w");
        std::vector<ParameterGroup> groups{{{&w}, 1, 0.1}};
        Stepper run(adam
                        ? std::unique_ptr<Optimizer>(std::make_unique<AdamW>(groups, AdamOptions{}))
                        : std::make_unique<Sgd>(groups, SgdOptions{}));
        const auto address = [&](bool transposed) {
          return reinterpret_cast<const std::byte*>(
              w.encoded(spec, transposed, {}).payload().raw());
        };
        const std::byte *rows = address(false), *cols = address(true);
        const Tensor before = w.storage().clone();
        const std::uint32_t version = w.version();
        for (const bool bad : {false, true, false}) {
          run.step(bad);
          CHECK(w.forms().size() == 2);
          CHECK(fresh(w, rows, spec, false));
          CHECK(fresh(w, cols, spec, true));
        }
        CHECK(w.version() > version);
        CHECK_FALSE(same_bits(before, w.storage()));
        // One that nobody asked for in a step is dropped after it.
        run.step();
        CHECK(fresh(w, cols, spec, true));
        run.step();
        CHECK(w.forms().size() == 1);
        // What the owner changes by other means is encoded at the next use, at its place.
        w.storage().copy_from(before);
        w.bump_version();
        CHECK(fresh(w, cols, spec, true));
        w.set_value(ops::affine(before, 3));
        CHECK(fresh(w, cols, spec, true));
      }
}

TEST_CASE("encodings: copies in bf16 are written again, and others are dropped") {
  Parameter bias(golden_values("bias", {33}, 0x1p-10f));
  Parameter low(golden_values("low", {64, 64}, 0x1p-10f).to(DType::BF16));
  Parameter codes(golden_values("codes", {32, 16}, 0x1p-10f));
  set_weight_storage_int8(codes);
  named(bias, "bias"), named(low, "low"), named(codes, "codes");
  const QuantSpec noisy = parse_spec("int8:row:sr"), small = parse_spec("int8:block32");
  Stepper run(
      std::make_unique<AdamW>(std::vector<ParameterGroup>{{{&bias, &low, &codes}}}, AdamOptions{}));
  const Tensor copy = bias.dense(DType::BF16);
  (void)low.dense(DType::F32), (void)codes.dense(DType::BF16);
  (void)low.encoded(noisy, false, {}), (void)low.encoded(small, true, {});
  const auto lazy = lazy_encodings(run.optimizer->parameters());
  CHECK(lazy.size() == 4);
  CHECK(lazy[0].name == "low");
  CHECK(lazy[0].reason == "copies other than bf16 of f32");
  CHECK(lazy[1].reason == "int8:row:sr: noise, which is drawn step by step");
  CHECK(lazy[2].reason.find("int8:block32: tiles other than") == 0);
  CHECK(lazy[3].reason == "weights are codes");
  run.step();
  CHECK(bias.dense(DType::BF16).raw() == copy.raw());
  CHECK(same_bits(copy, bias.storage().to(DType::BF16)));
  CHECK(low.forms().empty());
  CHECK(codes.forms().empty());
  CHECK(same_codes(low.encoded(noisy, false, {5, 6}), quantize(low.storage(), noisy, {5, 6})));
}

TEST_CASE("encodings: what a recorded step has found stays at its place") {
  const QuantSpec spec = parse_spec("int8:row"), other = parse_spec("int8:tensor");
  Parameter w(golden_values("w", {128, 64}, 0x1p-18f));
  named(w, "w");
  Stepper run(std::make_unique<AdamW>(std::vector<ParameterGroup>{{{&w}}}, AdamOptions{}));
  const auto* at = reinterpret_cast<const std::byte*>(w.encoded(spec, true, {}).payload().raw());
  run.step();
  (void)w.encoded(other, false, {});  // an evaluation's
  keep_encodings({&w});
  CHECK(w.forms().size() == 1);
  run.step();  // neither used since nor dropped
  CHECK(w.forms().size() == 1);
  (void)w.encoded(other, false, {});
  run.step();
  CHECK(w.forms().size() == 1);
  w.storage().fill(2);
  w.bump_version();
  keep_encodings({&w});
  CHECK_FALSE(w.forms().front().stale);
  CHECK(fresh(w, at, spec, true));
  w.storage().fill(3);
  w.bump_version();
  CHECK(fresh(w, at, spec, true));
}

TEST_CASE("encodings: a form that was kept goes when the weight becomes codes") {
  const QuantSpec spec = parse_spec("int8:row:recip");
  Parameter w(golden_values("w", {128, 128}, 0x1p-18f));
  named(w, "w");
  Stepper run(std::make_unique<Sgd>(std::vector<ParameterGroup>{{{&w}}}, SgdOptions{}));
  (void)w.encoded(spec, true, {});
  run.step();
  REQUIRE(w.forms().size() == 1);
  set_weight_storage_int8(w);
  (void)w.encoded(spec, true, {});
  run.step();
  CHECK(w.forms().empty());
}

TEST_CASE("encodings: a turn of the forward's codes is a form of its own") {
  const Recipe recipe = recipes::parse("int8_block128");
  Parameter w(golden_values("w", {256, 128}, 0x1p-18f));
  named(w, "w");
  Stepper run(std::make_unique<Sgd>(std::vector<ParameterGroup>{{{&w}}}, SgdOptions{}));
  const Tensor x = golden_values("x", {32, 128}, 0x1p-17f);
  const auto backward = [&] {
    Tape tape;
    const Tape::Recording recording(tape);
    const Var in = tape.watch(x.clone());
    const Var y = linear(in, w, nullptr, recipe.linear);
    tape.backward(y, golden_values("dy", {32, 256}, 0x1p-17f));
    return tape.gradient(in).clone();
  };
  const Tensor first = backward();
  CHECK(w.forms().size() == 2);
  run.step();
  CHECK(w.forms().size() == 2);
  const Tensor kept = backward();
  w.set_value(w.storage().clone());
  CHECK(same_bits(kept, backward()));
  CHECK_FALSE(same_bits(first, kept));
}

TEST_CASE("encodings: training has the bits of encodings made anew for every micro-batch") {
  for (const char* words : {"int8", "int8_block128", "int8_rowwise,weights=bf16", "fp8_delayed",
                            "none", "int8,lm_head=on"}) {
    CAPTURE(words);
    std::vector<std::vector<Tensor>> ends;
    for (const bool keep : {true, false}) {
      const Recipe recipe = recipes::parse(words);
      Gpt2Config config = testing::tiny_gpt2();
      config.layers = 1, config.width = 128, config.vocab = 304, config.context = 32;
      config.compute = DType::BF16;
      Gpt2 model(config, recipe, 3);
      if (recipe.weights == WeightStorage::BF16)
        for (Parameter* p : parameters(model)) set_weight_storage(*p, DType::BF16);
      AdamW adam({{parameters(model), 1, 0.1}}, AdamOptions{});
      StepState state;
      Tape tape;
      for (std::uint32_t step = 0; step < 3; ++step) {
        state.begin(step, 1e-3);
        for (std::uint32_t micro = 0; micro < 2; ++micro) {
          if (!keep)
            for (Parameter* p : parameters(model)) p->bump_version();
          const ForwardScope scope(
              {.training = true, .seed = 1, .step = state.step_pointer(), .micro_step = micro});
          const std::string name = fmt::format("{}.{}", step, micro);
          const Tape::Recording recording(tape);
          tape.backward(model.loss(testing::golden_tokens("ids" + name, {4, 32}, 300),
                                   testing::golden_tokens("targets" + name, {4, 32}, 300)));
        }
        adam.step(state);
      }
      std::vector<Tensor>& end = ends.emplace_back();
      for (Parameter* p : parameters(model)) end.push_back(p->storage());
      for (const auto& [name, tensor] : adam.state_tensors()) end.push_back(tensor);
    }
    for (std::size_t i = 0; i < ends[0].size(); ++i) CHECK(same_bits(ends[0][i], ends[1][i]));
  }
}

}  // namespace nibble
