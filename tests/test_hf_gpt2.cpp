// GPT-2 in Hugging Face's form: names, and the logits of an imported model against transformers'.
#include <doctest/doctest.h>

#include <cmath>

#include "apps/cli/cli.h"
#include "apps/cli/hf_gpt2.h"
#include "apps/cli/loaded_model.h"
#include "data/byte_source.h"
#include "models/gpt2.h"
#include "temp_dir.h"

using namespace nibble;
using nibble::test::TempDir;

namespace {

const std::filesystem::path kGolden =
    std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/golden/hf_gpt2";

int run_command(std::vector<std::string> words) {
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  return cli::run(static_cast<int>(argv.size()), argv.data());
}

}  // namespace

TEST_CASE("hf_gpt2: names and layouts are transformers'") {
  CHECK(cli::hf_name("wte.weight") == "transformer.wte.weight");
  CHECK(cli::hf_name("blocks.11.attn.qkv.bias") == "transformer.h.11.attn.c_attn.bias");
  CHECK(cli::hf_name("blocks.0.attn.proj.weight") == "transformer.h.0.attn.c_proj.weight");
  CHECK(cli::hf_name("blocks.0.mlp.fc2.weight") == "transformer.h.0.mlp.c_proj.weight");
  CHECK(cli::hf_name("blocks.0.ln2.weight") == "transformer.h.0.ln_2.weight");
  CHECK(cli::hf_name("lm_head.weight") == "lm_head.weight");
  CHECK(cli::hf_transposed("blocks.0.attn.proj.weight"));
  CHECK(cli::hf_transposed("blocks.0.mlp.fc1.weight"));
  CHECK(!cli::hf_transposed("blocks.0.mlp.fc1.bias"));
  CHECK(!cli::hf_transposed("blocks.0.ln1.weight"));
  CHECK(!cli::hf_transposed("lm_head.weight"));
  CHECK(!cli::hf_transposed("wte.weight"));
}

TEST_CASE("hf_gpt2: an imported model has transformers' tokens and logits") {
  const TempDir folder;
  const std::filesystem::path out = folder / "run";
  REQUIRE(run_command({"nibble", "import", kGolden.string(), "--output", out.string()}) == 0);
  const cli::LoadedModel loaded = cli::LoadedModel::open(out, kCpu);
  const Json golden = Json::parse(read_whole_file(kGolden / "logits.json"));
  const auto ids = golden["ids"].get<std::vector<std::int32_t>>();
  CHECK(loaded.tokenizer("")->encode(golden["text"].get<std::string>()) == ids);
  auto& model = dynamic_cast<Gpt2&>(*loaded.model);
  CHECK(model.config().norm_epsilon == 1e-3);
  CHECK(model.config().attention_dropout == 0.1);
  const auto count = static_cast<std::int64_t>(ids.size());
  const std::vector<float> logits = model.logits(Tensor::from(ids, {1, count})).to_vector();
  std::size_t at = 0;
  double worst = 0;
  for (const Json& row : golden["logits"])
    for (const Json& value : row)
      worst =
          std::max(worst, std::fabs(value.get<double>() - static_cast<double>(logits.at(at++))));
  CHECK(at == logits.size());
  CHECK(worst < 1e-4);
}
