// Text from quantized weights: every preset trains, is loaded and asked; with and without a cache.
#include <algorithm>

#include "apps/cli/loaded_model.h"
#include "apps/train/generate.h"
#include "apps/train/utf8_stream.h"
#include "autograd/context.h"
#include "quant/product_route.h"
#include "quant/qtensor.h"
#include "train_testing.h"

namespace nibble::train {
namespace {

namespace fs = std::filesystem;
using cli::LoadedModel;
using doctest::Contains;
using test::TempDir;
using namespace testing;

// Two steps of a tiny model: its last checkpoint.
fs::path trained(const TempDir& dir, const fs::path& data, const std::string& recipe) {
  Run run(tiny_config(data, {{"recipe", recipe},
                             {"trainer", {{"steps", 2}, {"warmup", 1}, {"eval_every", 0}}}}),
          dir / fmt::format("{:08x}", rng_site(recipe, "")));
  REQUIRE(run.go() == Outcome::Finished);
  return checkpoint_path(run.checkpoints(), 2);
}

std::int32_t argmax(const std::vector<float>& logits) {
  return static_cast<std::int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Bytes of the likeliest tokens, by whole windows and no sampler; the end of the text ends them.
std::string greedy_by_hand(LanguageModel& model, std::string text, int count) {
  const ForwardScope scope(ForwardContext{});
  std::vector<std::int32_t> ids;
  for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  std::string out;
  for (int i = 0; i < count; ++i) {
    const auto last =
        std::min<std::int64_t>(model.context(), static_cast<std::int64_t>(ids.size()));
    const Tensor window =
        Tensor::from(std::span<const std::int32_t>(ids.end() - last, ids.end()), {1, last});
    const std::int32_t id = argmax(model.next_logits(window).to_vector());
    if (id == 256) break;
    ids.push_back(id);
    out += static_cast<char>(id);
  }
  return out;
}

// What the values of a row depend on in the products of an evaluation.
enum class Rows {
  Floats,    // that row alone, and nothing rounds to codes: sums may differ in their order
  Codes,     // that row alone, but a last bit may turn a code
  Together,  // a scale over several rows: with other rows beside it a row has other codes
};
Rows rows_of(const std::string& name) {
  const Recipe r = recipes::parse(name);
  Rows all = Rows::Floats;
  const auto add = [&](const LinearRecipe& linear) {
    const std::optional<QuantSpec>& x = linear.fprop.lhs.quant;
    if (!x) return;
    const bool apart = x->tile.rows == 1 && x->scale != ScaleType::TwoLevel;
    all = std::max(all, apart ? Rows::Codes : Rows::Together);
  };
  add(r.linear);
  for (const auto& [pattern, linear] : r.overrides) add(linear);
  return all;
}

TEST_CASE("generate: greedy from a checkpoint of every preset is the argmax of whole windows") {
  // Exact. 30 tokens behind a prompt of 8 in a context of 24: the window slides.
  const TempDir dir;
  const auto data = make_dataset(dir);
  const ByteTokenizer tokenizer;
  const std::string prompt = "the fox ";
  for (const std::string& name : recipes::names()) {
    CAPTURE(name);
    const LoadedModel loaded = LoadedModel::open(trained(dir, data, name), kCpu);
    const GenerateOptions greedy{.tokens = 30, .sampling = {.greedy = true}, .cached = false};
    const Generated text = generate(*loaded.model, tokenizer, 257, prompt, greedy);
    Utf8Stream stream;
    const std::string expected = stream.push(greedy_by_hand(*loaded.model, prompt, 30));
    CHECK(text.text == expected + stream.finish());
    GenerateOptions zero = greedy;
    zero.sampling = {.temperature = 0, .seed = 7};
    CHECK(generate(*loaded.model, tokenizer, 257, prompt, zero).text == text.text);
    // With a cache: deterministic, drawn or not.
    for (const SamplingOptions& sampling : {SamplingOptions{.greedy = true}, SamplingOptions{}}) {
      const GenerateOptions cached{.tokens = 30, .sampling = sampling, .cached = true};
      const Generated first = generate(*loaded.model, tokenizer, 257, prompt, cached);
      CHECK(generate(*loaded.model, tokenizer, 257, prompt, cached).text == first.text);
      CHECK((first.tokens == 30 || first.ended));
    }
  }
}

TEST_CASE("generate: a cache changes the logits by the order of sums, where rows stand apart") {
  // Bound by the order of accumulation; by one code of an activation where that rounds to codes.
  const TempDir dir;
  const auto data = make_dataset(dir);
  int counts[3] = {};
  for (const std::string& name : recipes::names()) {
    CAPTURE(name);
    const Rows rows = rows_of(name);
    ++counts[static_cast<int>(rows)];
    const LoadedModel loaded = LoadedModel::open(trained(dir, data, name), kCpu);
    LogitsReader cached(*loaded.model, true), whole(*loaded.model, false);
    std::vector<std::int32_t> ids;
    double worst = 0;
    for (int i = 0; i < 24; ++i) {
      ids.push_back('a' + i * 7 % 26);
      const std::vector<float> a = cached.logits(ids), b = whole.logits(ids);
      REQUIRE(a.size() == b.size());
      for (std::size_t k = 0; k < a.size(); ++k)
        worst = std::max(worst, std::fabs(static_cast<double>(a[k]) - static_cast<double>(b[k])));
    }
    // Logits of up to 1. With a scale over several rows the two are different evaluations.
    if (rows == Rows::Floats) CHECK(worst < 2e-6);
    if (rows == Rows::Codes) CHECK(worst < 2e-2);
    if (rows == Rows::Together) CHECK(worst > 1e-4);
  }
  for (const int count : counts) CHECK(count > 0);
}

TEST_CASE("generate: an integer product of one row has the bits of that row among others") {
  // Exact: codes and scales belong to the row, integers sum exactly.
  for (const char* a : {"int8:row", "uint8:row:asym", "int4:row"}) {
    CAPTURE(std::string(a));
    const Tensor x = Tensor::normal({9, 96}, 0, 1, RngKey{1, 2});
    const QuantSpec spec = parse_spec(a);
    const QTensor w =
        quantize(Tensor::normal({40, 96}, 0, 1, RngKey{3, 4}), parse_spec("int8:row"));
    const Tensor whole = matmul_nt(quantize(x, spec), w);
    for (std::int64_t row = 0; row < 9; ++row) {
      const Tensor one = matmul_nt(quantize(ops::contiguous(x.slice(0, row, row + 1)), spec), w);
      CHECK(nibble::testing::same_bits(one, ops::contiguous(whole.slice(0, row, row + 1))));
    }
    const ProductRoute route = product_route(spec, w.spec(), {.m = 1, .n = 40, .k = 96}, kCpu);
    CHECK(!route.decoded);
  }
}

TEST_CASE("generate: any checkpoint under any recipe") {
  // The weights are the checkpoint's; int8 ones lose nothing on the way to f32: exact.
  const TempDir dir;
  const auto data = make_dataset(dir);
  const fs::path stored = trained(dir, data, "none,weights=int8");
  const fs::path untied = trained(dir, data, "w8a8g8_ste");
  const ByteTokenizer tokenizer;
  const GenerateOptions greedy{.tokens = 12, .sampling = {.greedy = true}, .cached = true};
  const auto text = [&](const fs::path& path, const std::string& recipe) {
    const LoadedModel loaded = LoadedModel::open(path, kCpu, recipe);
    return generate(*loaded.model, tokenizer, 257, "the fox ", greedy).text;
  };
  CHECK(text(stored, "none") == text(stored, ""));
  for (const char* recipe :
       {"int8", "int8,weights=int8", "none,weights=bf16", "w8a8g8", "w4_tensor"}) {
    CAPTURE(std::string(recipe));
    CHECK(text(stored, recipe) == text(stored, recipe));
    // Tied stays tied, and a head of its own stays one, whatever the recipe would train.
    CHECK_NOTHROW(text(untied, recipe));
  }
  CHECK_THROWS_WITH(text(stored, "int9"), Contains("int9"));
}

TEST_CASE("generate: a checkpoint's state may not ask for more than its file holds") {
  const TempDir dir;
  const Loaded good(trained(dir, make_dataset(dir), "none,weights=int8"));
  const auto refused = [&](const char* pointer, const nlohmann::json& value) {
    nlohmann::json state = good.state;
    state[nlohmann::json::json_pointer(pointer)] = value;
    save_checkpoint(dir / "c", state, good.tensors);
    return test::message_of([&] { LoadedModel::open(dir / "c", kCpu); });
  };
  const auto says = [](const std::string& text, const char* part) {
    CAPTURE(text);
    CHECK(text.find(part) != std::string::npos);
  };
  says(refused("/config/model/layers", 1000), "model.layers: got 1000, while there are");
  says(refused("/config/model/context", 1 << 20),
       "'wpe.weight/codes' has shape [24, 32], expected");
  says(refused("/config/model/vocab", 1 << 24), "'wte.weight/codes' has shape [257, 32], expected");
  for (const char* extent : {"layers", "context", "width", "vocab"})  // products would overflow
    says(refused(fmt::format("/config/model/{}", extent).c_str(), std::int64_t{1} << 61),
         "gpt2: got vocab");
  says(refused("/vocab", 300), "expected [300, 32]");
  says(refused("/vocab", "many"), "does not say the size of its vocabulary");
  says(refused("/config/recipe", "w8a8g8"), "holds no tensor 'lm_head.weight'");
}

}  // namespace
}  // namespace nibble::train
