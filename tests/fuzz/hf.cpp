// A folder in Hugging Face's form: config.json up to the first zero byte, behind it
// model.safetensors.index.json, beside two shards that are intact.
#include "apps/cli/hf_gpt2.h"
#include "apps/train/build.h"
#include "apps/train/train_config.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view bytes = fuzz::text(data, size);
  const std::size_t cut = std::min(bytes.find('\0'), bytes.size());
  const auto folder = fuzz::file_of(bytes.substr(0, cut), cli::kHfConfigFile).parent_path();
  std::ofstream(folder / cli::kHfIndexFile, std::ios::binary)
      << bytes.substr(std::min(cut + 1, bytes.size()));
  write_safetensors(folder / "a.safetensors", {{"transformer.wte.weight", Tensor::zeros({4, 2})}},
                    {});
  write_safetensors(folder / "b.safetensors",
                    {{"h.0.ln_1.bias", Tensor::zeros({2})}, {"h.0.attn.bias", Tensor::zeros({1})}},
                    {});
  fuzz::run([&] {
    const train::ModelConfig described = cli::read_hf_config(folder);
    (void)train::read_config(
        {{"model", config::write(described)}, {"data", {{"path", ""}}}, {"recipe", "none"}});
  });
  return fuzz::run([&] {
    const cli::HfWeights weights(folder);
    (void)weights.find("transformer.wte.weight");
    (void)weights.read("wte.weight", {4, 2});
    weights.check_names({"transformer.wte.weight", "transformer.h.0.ln_1.bias"});
  });
}
