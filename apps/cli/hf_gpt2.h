// GPT-2 as Hugging Face's folders hold it: config.json, safetensors in one file or several, and a
// tokenizer. Names, layouts and fields are those that transformers' GPT2LMHeadModel reads.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "apps/train/train_config.h"
#include "data/tokenizer.h"
#include "nn/safetensors.h"

namespace nibble::cli {

inline constexpr const char* kHfConfigFile = "config.json";
inline constexpr const char* kHfWeightsFile = "model.safetensors";
inline constexpr const char* kHfIndexFile = "model.safetensors.index.json";

// A parameter of models/gpt2.h under the name that transformers has for it.
std::string hf_name(std::string_view parameter);
// Whether transformers holds it as [in, out] (Conv1D), the transpose of ours.
bool hf_transposed(std::string_view parameter);

// What config.json says, with every size spelled out. Throws Error("import") for another
// architecture, an activation or an attention that models/gpt2.h does not have, and for bad sizes.
train::ModelConfig read_hf_config(const std::filesystem::path& folder);

// tokenizer.json or vocab.json + merges.txt; null when the folder has neither.
std::unique_ptr<Tokenizer> read_hf_folder_tokenizer(const std::filesystem::path& folder);

// The tensors of a folder, under their names without "transformer."; masks that old versions of
// transformers saved are left out.
class HfWeights {
 public:
  // Throws Error("import") for a missing or damaged file or index, and for a name twice.
  explicit HfWeights(const std::filesystem::path& folder);

  std::size_t size() const { return entries_.size(); }
  // Names are hf_name's. Null when it is not there.
  const SafetensorsFile::Entry* find(std::string_view name) const;
  // The value in F32, F32 or BF16 in the file, with its shape checked.
  Tensor read(std::string_view name, const Shape& shape) const;
  bool same_bytes(std::string_view a, std::string_view b) const;
  // Every name of `wanted` must be there and nothing else; errors name the nearest.
  void check_names(const std::vector<std::string>& wanted) const;

 private:
  using Located = std::pair<const SafetensorsFile*, const SafetensorsFile::Entry*>;
  const Located* locate(std::string_view name) const;
  void open(const std::string& file);
  void open_shards();

  std::filesystem::path folder_;
  std::map<std::string, std::unique_ptr<SafetensorsFile>> files_;
  std::map<std::string, Located, std::less<>> entries_;
};

}  // namespace nibble::cli
