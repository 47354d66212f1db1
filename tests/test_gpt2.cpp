// GPT-2 against transformers' (golden/make_gpt2.py): real head size and vocabulary, two layers.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "autograd/context.h"
#include "gpt2_golden.h"
#include "optim/adam.h"
#include "tensor_testing.h"

namespace nibble {
namespace {

using testing::golden_tokens;
using testing::same_bits;
using testing::tiny_gpt2;

const nlohmann::json& golden() {
  static const nlohmann::json g = testing::read_golden("gpt2.json");
  return g;
}

Gpt2Config golden_config(bool tied) {
  const auto& shape = golden()["shape"];
  Gpt2Config c;
  c.vocab = shape["vocab"], c.context = shape["context"], c.layers = shape["layers"];
  c.heads = shape["heads"], c.width = shape["width"], c.tie_embeddings = tied;
  return c;
}

void load_golden_weights(Gpt2& model) {
  for (Parameter* p : parameters(model)) {
    const bool matrix = p->shape().rank() == 2;
    const float offset = !matrix && p->name.ends_with("weight") ? 1.0f : 0.0f;
    p->storage().copy_from(
        testing::golden_values(p->name, p->shape(), matrix ? 0x1p-18f : 0x1p-17f, offset));
    p->bump_version();
  }
}

// [B, T + 1] of one batch: inputs and targets overlap.
struct Pair {
  Tensor ids, targets;
};
Pair golden_batch(const std::string& name, int step) {
  const std::int64_t batch = golden()["shape"]["batch"], length = golden()["shape"]["length"];
  const std::int64_t vocab = golden()["shape"]["vocab"];
  std::vector<std::int32_t> ids, targets;
  for (std::int64_t b = 0; b < batch; ++b)
    for (std::int64_t t = 0; t <= length; ++t) {
      const std::uint32_t h = testing::golden_hash(
          fmt::format("{}.{}", name, step), static_cast<std::uint32_t>(b * (length + 1) + t));
      const auto id = static_cast<std::int32_t>(std::min<std::int64_t>(h % 300 * 168, vocab - 1));
      if (t < length) ids.push_back(id);
      if (t > 0) targets.push_back(id);
    }
  return {Tensor::from(ids, {batch, length}), Tensor::from(targets, {batch, length})};
}

TEST_CASE("gpt2: logits equal those of transformers") {
  for (const bool tied : {true, false}) {
    CAPTURE(tied);
    Gpt2 model(golden_config(tied), recipes::parse("none"), 1);
    load_golden_weights(model);
    const auto& expected = golden()[tied ? "tied" : "untied"]["logits"];
    const Tensor logits = model.logits(golden_batch("logits", 0).ids).flatten_rows();
    const auto rows = logits.to_vector();
    const auto vocab = static_cast<std::size_t>(logits.cols());
    double worst = 0;
    const auto compare = [&](std::size_t place, std::size_t column, double value) {
      worst = std::max(worst, std::fabs(rows[place * vocab + column] - value));
    };
    for (std::size_t k = 0; k < expected["places"].size(); ++k) {
      const std::size_t place = expected["places"][k], stride = expected["stride"];
      const auto& columns = expected["columns"][k];
      REQUIRE(columns.size() == (vocab + stride - 1) / stride);
      for (std::size_t i = 0; i < columns.size(); ++i) compare(place, i * stride, columns[i]);
      for (std::size_t i = 0; i < expected["top"][k].size(); ++i)
        compare(place, expected["top_index"][k][i], expected["top"][k][i]);
    }
    CHECK(worst < 1e-4);
    for (std::size_t place = 0; place < expected["logsumexp"].size(); ++place) {
      double total = 0;
      for (std::size_t i = 0; i < vocab; ++i)
        total += std::exp(static_cast<double>(rows[place * vocab + i]));
      CHECK(std::fabs(std::log(total) - expected["logsumexp"][place].get<double>()) < 1e-4);
    }
  }
}

TEST_CASE("gpt2: AdamW losses equal those of PyTorch") {
#ifdef NIBBLE_SANITIZED
  const int steps = 3;  // an instrumented matrix product is many times slower
#else
  const int steps = golden()["shape"]["steps"];
#endif
  for (const bool tied : {true, false}) {
    CAPTURE(tied);
    Gpt2 model(golden_config(tied), recipes::parse("none"), 1);
    load_golden_weights(model);
    std::vector<ParameterGroup> groups{{{}, 1, 0.1}, {{}, 1, 0}};
    for (Parameter* p : parameters(model)) groups[model.decays(*p) ? 0 : 1].parameters.push_back(p);
    AdamW adam(std::move(groups), {.beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8});
    const auto& training = golden()[tied ? "tied" : "untied"]["training"];
    StepState state;
    Tape tape;
    for (int step = 0; step < steps; ++step) {
      CAPTURE(step);
      state.begin(static_cast<std::uint32_t>(step), 1e-3);
      const Pair batch = golden_batch("train", step % 4);
      const Tape::Recording recording(tape);
      const Var loss = model.loss(batch.ids, batch.targets);
      const double value = loss.item();
      tape.backward(loss);
      const double norm = clip_gradients(parameters(model), 1, state);
      adam.step(state);
      CHECK(std::fabs(value - training["losses"][step].get<double>()) < 1e-4);
      CHECK(norm == doctest::Approx(training["norms"][step].get<double>()).epsilon(1e-4));
    }
  }
}

// Loss and gradients of one training pass.
struct Pass {
  Tensor loss;
  std::vector<Tensor> gradients;
};
Pass pass(const Gpt2Config& config, const std::string& recipe, const Shape& tokens = {2, 24}) {
  Gpt2 model(config, recipes::parse(recipe), 3);
  const std::uint32_t step = 5;
  const ForwardScope scope({.training = true, .seed = 11, .step = &step, .micro_step = 1});
  const Tensor ids = golden_tokens("pass", tokens, config.vocab);
  Tape tape;
  const Tape::Recording recording(tape);
  const Var loss = model.loss(ids, golden_tokens("targets", tokens, config.vocab));
  Pass p{loss.tensor().clone(), {}};
  tape.backward(loss);
  for (const Parameter* q : parameters(model)) {
    REQUIRE(q->has_grad());
    p.gradients.push_back(q->grad().clone());
  }
  return p;
}

TEST_CASE("gpt2: checkpointed blocks give the same bits, noise included") {
  for (const char* recipe : {"none", "int8", "w8a8g8",
                             "none,fprop=int8:row|int8:row,dgrad=none,"
                             "wgrad.lhs=int4:row:sr"}) {
    CAPTURE(std::string(recipe));
    Gpt2Config config = tiny_gpt2();
    config.embedding_dropout = config.attention_dropout = config.residual_dropout = 0.1;
    const Pass kept = pass(config, recipe);
    config.checkpoint_blocks = true;
    const Pass recomputed = pass(config, recipe);
    CHECK(same_bits(kept.loss, recomputed.loss));
    REQUIRE(kept.gradients.size() == recomputed.gradients.size());
    for (std::size_t i = 0; i < kept.gradients.size(); ++i) {
      CAPTURE(i);
      CHECK(same_bits(kept.gradients[i], recomputed.gradients[i]));
    }
  }
}

TEST_CASE("gpt2: checkpointed blocks hold less memory") {
  Gpt2Config config = tiny_gpt2();
  config.layers = 6, config.context = 128;
  const auto peak = [&] {
    reset_peak_memory(kCpu);
    const std::int64_t before = memory_stats(kCpu).current;
    pass(config, "none", {4, 128});
    return memory_stats(kCpu).peak - before;
  };
  const std::int64_t kept = peak();
  config.checkpoint_blocks = true;
  CHECK(peak() < kept * 3 / 4);
}

TEST_CASE("gpt2: chunks of tokens change nothing but the order of sums") {
  for (const bool tied : {true, false}) {
    Gpt2Config config = tiny_gpt2();
    config.tie_embeddings = tied;
    const Pass whole = pass(config, "none");
    for (const std::int64_t chunk : {1, 7, 32}) {
      CAPTURE(chunk);
      config.token_chunk = chunk;
      const Pass p = pass(config, "none");
      testing::check_close(p.loss, whole.loss.to_vector<double>(), 1e-6);
      for (std::size_t i = 0; i < p.gradients.size(); ++i)
        testing::check_close(p.gradients[i], whole.gradients[i].to_vector<double>(), 2e-5, 0.01);
    }
  }
}

TEST_CASE("gpt2: token_losses, next_logits and loss agree with logits") {
  for (const bool tied : {true, false}) {
    Gpt2Config config = tiny_gpt2();
    config.tie_embeddings = tied;
    config.token_chunk = 40;
    Gpt2 model(config, recipes::parse("none"), 3);
    const Tensor ids = golden_tokens("pass", {3, 16}, config.vocab);
    auto targets = golden_tokens("targets", {3, 16}, config.vocab).to_vector<std::int32_t>();
    targets[5] = targets[40] = -1;
    const Tensor target = Tensor::from(targets, {3, 16});
    const auto logits = model.logits(ids).to_vector<double>();
    std::vector<double> losses(targets.size());
    double sum = 0;
    const auto vocab = static_cast<std::size_t>(config.vocab);
    for (std::size_t i = 0; i < targets.size(); ++i) {
      if (targets[i] < 0) continue;
      double total = 0;
      for (std::size_t v = 0; v < vocab; ++v) total += std::exp(logits[i * vocab + v]);
      losses[i] = std::log(total) - logits[i * vocab + static_cast<std::size_t>(targets[i])];
      sum += losses[i];
    }
    testing::check_close(model.token_losses(ids, target), losses, 1e-5);
    const NoGrad no_grad;
    CHECK(model.loss(ids, target).item() ==
          doctest::Approx(sum / static_cast<double>(targets.size() - 2)).epsilon(1e-5));
    const auto next = model.next_logits(ids).to_vector<double>();
    REQUIRE(next.size() == 3 * vocab);
    for (std::size_t b = 0; b < 3; ++b)
      for (std::size_t v = 0; v < vocab; ++v)
        CHECK(next[b * vocab + v] ==
              doctest::Approx(logits[(b * 16 + 15) * vocab + v]).epsilon(1e-5));
  }
}

TEST_CASE("gpt2: a token sees no later one") {
  Gpt2 model(tiny_gpt2(), recipes::parse("none"), 3);
  auto ids = golden_tokens("pass", {1, 20}, 96).to_vector<std::int32_t>();
  const Tensor before = model.logits(Tensor::from(ids, {1, 20})).slice(1, 0, 12).clone();
  for (std::size_t i = 12; i < 20; ++i) ids[i] = (ids[i] + 31) % 96;
  const Tensor changed = model.logits(Tensor::from(ids, {1, 20}));
  CHECK(same_bits(before, changed.slice(1, 0, 12).clone()));
  CHECK_FALSE(same_bits(model.logits(Tensor::from(ids, {1, 20})).slice(1, 0, 1).clone(),
                        changed.slice(1, 1, 2).clone()));
}

TEST_CASE("gpt2: initialisation") {
  Gpt2Config config = tiny_gpt2();
  config.width = 256, config.heads = 4, config.tie_embeddings = false;
  config.init_std = 0.005;
  Gpt2 model(config, recipes::parse("none"), 9);
  CHECK(Gpt2Config{}.init_std == 0.02);
  for (Parameter* p : parameters(model)) {
    CAPTURE(p->name);
    const auto v = p->storage().to_vector<double>();
    double mean = 0, square = 0;
    for (const double x : v) mean += x / static_cast<double>(v.size());
    for (const double x : v) square += (x - mean) * (x - mean) / static_cast<double>(v.size());
    const bool projection =
        p->name.ends_with("attn.proj.weight") || p->name.ends_with("fc2.weight");
    const bool matrix = p->shape().rank() == 2;
    const double deviation = !matrix ? 0 : projection ? 0.005 / std::sqrt(4.0) : 0.005;
    const double n = static_cast<double>(v.size());
    CHECK(std::fabs(mean - (!matrix && p->name.ends_with("weight") ? 1 : 0)) <=
          5 * deviation / std::sqrt(n));
    CHECK(std::fabs(std::sqrt(square) - deviation) <= 5 * deviation / std::sqrt(2 * n));
  }
  // A parameter's values depend on the seed and its name, not on the model around it.
  config.layers = 1;
  Gpt2 smaller(config, recipes::parse("int8"), 9), other(config, recipes::parse("none"), 10);
  CHECK(same_bits(parameters(smaller)[0]->storage(), parameters(model)[0]->storage()));
  CHECK_FALSE(same_bits(parameters(other)[0]->storage(), parameters(model)[0]->storage()));
}

TEST_CASE("gpt2: parameters that are stored as they are drawn have the bits of a whole model's") {
  const Recipe recipe = recipes::parse("int8");
  Gpt2 whole(tiny_gpt2(), recipe, 9);
  for (Parameter* p : parameters(whole)) set_weight_storage_int8(*p);
  Gpt2 drawn(tiny_gpt2(), recipe, 9, kCpu, set_weight_storage_int8);
  const auto a = parameters(whole), b = parameters(drawn);
  REQUIRE(a.size() == b.size());
  for (std::size_t i = 0; i < a.size(); ++i) {
    CAPTURE(a[i]->name);
    CHECK(b[i]->device() == kCpu);
    CHECK(b[i]->is_quantized() == (a[i]->shape().rank() == 2));
    CHECK(same_bits(a[i]->dense(), b[i]->dense()));
  }
  // And never is more than one of them there in F32.
  reset_peak_memory(kCpu);
  const std::int64_t before = memory_stats(kCpu).peak;
  Gpt2Config config = tiny_gpt2();
  config.layers = 12;
  Gpt2 deep(config, recipe, 9, kCpu, set_weight_storage_int8);
  std::int64_t elements = 0;
  for (const Parameter* p : parameters(deep)) elements += p->numel();
  CHECK(memory_stats(kCpu).peak - before < 2 * elements);
}

TEST_CASE("gpt2: names, sizes and the number of parameters") {
  const auto count = [](const Gpt2Config& c, const char* recipe) {
    std::int64_t n = 0;
    Gpt2 model(c, recipes::parse(recipe), 1, kMeta);
    for (const Parameter* p : parameters(model)) n += p->numel();
    return n;
  };
  CHECK(count(Gpt2Config::named("gpt2"), "none") == 124439808);
  // The study quantizes the head, and with that unties it (quantization-study.md, 1.6; its 50264
  // rows).
  Gpt2Config padded = Gpt2Config::named("gpt2");
  padded.vocab = 50264;
  CHECK(count(padded, "w8a8g8") == 163047936);
  CHECK(count(Gpt2Config::named("gpt2-medium"), "none") == 354823168);
  CHECK(count(Gpt2Config::named("gpt2-large"), "none") == 774030080);
  CHECK(count(Gpt2Config::named("gpt2-xl"), "none") == 1557611200);

  Gpt2 model(tiny_gpt2(), recipes::parse("none"), 1);
  std::vector<std::string> names;
  for (const Parameter* p : parameters(model)) names.push_back(p->name);
  CHECK(names.front() == "wte.weight");
  CHECK(names.back() == "ln_f.bias");
  CHECK(std::find(names.begin(), names.end(), "blocks.1.attn.qkv.weight") != names.end());
  CHECK(names.size() == 2 + 2 * 12 + 2);
}

TEST_CASE("gpt2: reading token by token gives the logits of the whole window") {
  for (const char* recipe : {"none", "int8"}) {
    CAPTURE(recipe);
    Gpt2 model(tiny_gpt2(), recipes::parse(recipe), 3);
    const Tensor ids = Tensor::uniform({2, 20}, 0, 96, RngKey{4, 1}).to(DType::I32);
    KvCache cache = model.make_cache(2, 20);
    // A prompt of 7 at once, then one at a time, then 3 at once.
    for (std::int64_t begin = 0, count = 7; begin < 20;) {
      const Tensor logits = model.extend(ids.slice(1, begin, begin + count), cache);
      begin += count;
      CHECK(cache.length == begin);
      const Tensor whole = model.next_logits(ops::contiguous(ids.slice(1, 0, begin)));
      // Products of other shapes sum in another order; a code may flip by one.
      testing::check_close(logits, whole.to_vector<double>(), *recipe == 'n' ? 2e-5 : 2e-2, 1);
      count = begin == 17 ? 3 : 1;
    }
    CHECK_THROWS_WITH(model.extend(ids.slice(1, 0, 1), cache),
                      doctest::Contains("got 1 tokens after 20, expected 1 up to the cache's 20"));
    CHECK_THROWS_WITH(model.make_cache(1, 33), doctest::Contains("at most the context of 32"));
  }
}

TEST_CASE("gpt2: errors name what is wrong") {
  using doctest::Contains;
  CHECK_THROWS_WITH(Gpt2Config::named("gpt3"), Contains("got 'gpt3', expected gpt2, gpt2-medium"));
  Gpt2Config odd = tiny_gpt2();
  odd.heads = 3;
  CHECK_THROWS_WITH(Gpt2(odd, recipes::parse("none"), 1), Contains("got width 64 and 3 heads"));
  Gpt2 model(tiny_gpt2(), recipes::parse("none"), 1);
  CHECK_THROWS_WITH(model.logits(Tensor::zeros({1, 33}, DType::I32)),
                    Contains("got 33 tokens, expected at most the context of 32"));
  CHECK_THROWS_WITH(model.logits(Tensor::zeros({4}, DType::I32)), Contains("expected i32[B, T]"));
  CHECK_THROWS_AS(model.logits(Tensor::full({1, 4}, 96, DType::I32)), Error);
  CHECK_THROWS_AS(
      model.loss(Tensor::zeros({1, 4}, DType::I32), Tensor::full({1, 4}, 96, DType::I32)), Error);
}

}  // namespace

TEST_CASE("gpt2: a recipe's layer pattern must match a layer of the model") {
  Gpt2Config config;
  config.vocab = 40, config.context = 8, config.layers = 2, config.heads = 1, config.width = 8;
  config.tie_embeddings = false;
  // Each of the model's own layers can be named, and no other.
  Gpt2 model(config, {}, 1, kMeta);
  int count = 0;
  for_each_module(model, [&](Module& m) {
    if (dynamic_cast<Linear*>(&m) == nullptr) return;
    CHECK_NOTHROW(config.check_layers(recipes::parse("int8,layer:" + m.path() + "=none")));
    ++count;
  });
  CHECK(count == 2 * 4 + 1);
  for (const char* text :
       {"int8", "int8,layer:*.qkv=none", "none,layer:blocks.1.mlp.fc?=int8", "w8a8g8"})
    CHECK_NOTHROW(config.check_layers(recipes::parse(text)));
  const auto check = [&](const char* text, const char* message) {
    CHECK_THROWS_WITH_AS(config.check_layers(recipes::parse(text)), message, Error);
  };
  const std::string kinds =
      "matches no layer, expected one of blocks.*.attn.qkv, blocks.*.attn.proj, blocks.*.mlp.fc1, "
      "blocks.*.mlp.fc2, lm_head";
  check("int8,layer:*.c_attn=none", ("recipe: int8: layer pattern '*.c_attn' " + kinds).c_str());
  check("int8,layer:blocks.2.mlp.fc1=none", ("recipe: int8: layer pattern 'blocks.2.mlp.fc1' " +
                                             kinds + "; did you mean 'blocks.*.mlp.fc1'?")
                                                .c_str());
}

}  // namespace nibble
