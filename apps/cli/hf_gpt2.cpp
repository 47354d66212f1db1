#include "apps/cli/hf_gpt2.h"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "apps/config/nearest.h"
#include "data/bpe_tokenizer.h"
#include "data/byte_source.h"
#include "data/hf_tokenizer.h"
#include "tensor/json_text.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;  // not the ordered Json, which looks keys up one by one
constexpr const char* kOp = "import";
constexpr std::string_view kPrefix = "transformer.", kHead = "lm_head.weight";

// Parts of names, ours and theirs; each stands between dots.
constexpr std::array<std::pair<std::string_view, std::string_view>, 7> kParts{{{"blocks", "h"},
                                                                               {"ln1", "ln_1"},
                                                                               {"ln2", "ln_2"},
                                                                               {"qkv", "c_attn"},
                                                                               {"proj", "c_proj"},
                                                                               {"fc1", "c_fc"},
                                                                               {"fc2", "c_proj"}}};

std::string_view without_prefix(std::string_view name) {
  return name.starts_with(kPrefix) ? name.substr(kPrefix.size()) : name;
}

// Causal masks and the number that masked places get: constants, not weights.
bool is_mask(std::string_view name) {
  return name.starts_with("h.") &&
         (name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias"));
}

json parse_object(const fs::path& file) {
  json parsed = parse_json<json>(read_whole_file(file));
  NIBBLE_CHECK(parsed.is_object(), kOp, "{}: expected a JSON object", file.string());
  return parsed;
}

std::string short_text(const json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > 60) text = text.substr(0, 57) + "...";
  return text;
}

// The fields of config.json, with messages that name file and field.
class Fields {
 public:
  explicit Fields(const fs::path& file) : file_(file.string()), json_(parse_object(file)) {}

  // Absent and null are the same in these files.
  const json& at(const char* key) const {
    static const json null;
    const auto found = json_.find(key);
    return found == json_.end() ? null : *found;
  }
  void check(bool good, const char* key, std::string_view expected) const {
    NIBBLE_CHECK(good, kOp, "{}: {}: got {}, expected {}", file_, key, short_text(at(key)),
                 expected);
  }
  void check_is(const char* key, const json& only) const {
    check(at(key).is_null() || at(key) == only, key, only.dump());
  }
  std::int64_t extent(const char* key) const {
    constexpr std::int64_t kMost = 1 << 24;
    const json& value = at(key);
    const bool good = value.is_number_integer() && value >= 1 && value <= kMost;
    check(good, key, "an integer of 1 to 16777216");
    return value.get<std::int64_t>();
  }
  double number(const char* key, double otherwise) const {
    const json& value = at(key);
    check(value.is_null() || value.is_number(), key, "a number");
    return value.is_null() ? otherwise : value.get<double>();
  }
  bool boolean(const char* key, bool otherwise) const {
    const json& value = at(key);
    check(value.is_null() || value.is_boolean(), key, "true or false");
    return value.is_null() ? otherwise : value.get<bool>();
  }

 private:
  std::string file_;
  json json_;
};

}  // namespace

std::string hf_name(std::string_view parameter) {
  if (parameter == kHead) return std::string(kHead);
  std::string name(kPrefix);
  for (std::size_t begin = 0; begin <= parameter.size();) {
    const std::size_t end = std::min(parameter.find('.', begin), parameter.size());
    const std::string_view part = parameter.substr(begin, end - begin);
    const auto* known =
        std::find_if(kParts.begin(), kParts.end(), [&](const auto& p) { return p.first == part; });
    name += known == kParts.end() ? part : known->second;
    if (end < parameter.size()) name += '.';
    begin = end + 1;
  }
  return name;
}

bool hf_transposed(std::string_view parameter) {
  return parameter.starts_with("blocks.") &&
         std::any_of(kParts.begin() + 3, kParts.end(), [&](const auto& p) {
           return parameter.ends_with(fmt::format(".{}.weight", p.first));
         });
}

train::ModelConfig read_hf_config(const fs::path& folder) {
  const fs::path file = folder / kHfConfigFile;
  NIBBLE_CHECK(fs::exists(file), kOp, "{} is not there; expected a folder in Hugging Face's form",
               file.string());
  const Fields f(file);
  f.check(f.at("model_type") == "gpt2", "model_type", "\"gpt2\"");
  f.check_is("scale_attn_weights", true);
  f.check_is("scale_attn_by_inverse_layer_idx", false);
  f.check_is("add_cross_attention", false);
  const json& activation = f.at("activation_function");
  f.check(activation.is_null() || activation == "gelu_new" || activation == "gelu",
          "activation_function", "\"gelu_new\" or \"gelu\"");
  train::ModelConfig m;
  m.layers = f.extent("n_layer");
  m.heads = f.extent("n_head");
  m.width = f.extent("n_embd");
  m.context = f.extent(f.at("n_positions").is_null() ? "n_ctx" : "n_positions");
  m.vocab = f.extent("vocab_size");
  f.check_is("n_inner", 4 * *m.width);
  // What is absent has transformers' default.
  m.embedding_dropout = f.number("embd_pdrop", 0.1);
  m.attention_dropout = f.number("attn_pdrop", 0.1);
  m.residual_dropout = f.number("resid_pdrop", 0.1);
  m.norm_epsilon = f.number("layer_norm_epsilon", 1e-5);
  m.init_std = f.number("initializer_range", 0.02);
  m.tie_embeddings = f.boolean("tie_word_embeddings", true);
  m.gelu = activation == "gelu" ? "erf" : "tanh";
  return m;
}

std::unique_ptr<Tokenizer> read_hf_folder_tokenizer(const fs::path& folder) {
  if (fs::exists(folder / "tokenizer.json"))
    return std::make_unique<BpeTokenizer>(read_hf_tokenizer(folder / "tokenizer.json"));
  const fs::path vocab = folder / "vocab.json", merges = folder / "merges.txt";
  if (!fs::exists(vocab) && !fs::exists(merges)) return nullptr;
  // The name is that which the same tables get from tokenizer.json.
  return std::make_unique<BpeTokenizer>(BpeTokenizer::from_files(merges, vocab, "bpe"));
}

HfWeights::HfWeights(const fs::path& folder) : folder_(folder) {
  if (fs::exists(folder / kHfWeightsFile)) {
    open(kHfWeightsFile);
  } else {
    NIBBLE_CHECK(fs::exists(folder / kHfIndexFile), kOp,
                 "{} holds neither {} nor {}; other forms of weights are not read", folder.string(),
                 kHfWeightsFile, kHfIndexFile);
    open_shards();
  }
}

void HfWeights::open(const std::string& name) {
  auto file = std::make_unique<SafetensorsFile>(folder_ / name);
  for (const SafetensorsFile::Entry& entry : file->entries()) {
    const std::string_view bare = without_prefix(entry.name);
    if (is_mask(bare)) continue;
    const bool fresh = entries_.emplace(bare, Located{file.get(), &entry}).second;
    NIBBLE_CHECK(fresh, kOp, "{}: the tensor '{}' comes twice", (folder_ / name).string(), bare);
  }
  files_.emplace(name, std::move(file));
}

void HfWeights::open_shards() {
  const std::string index = (folder_ / kHfIndexFile).string();
  const json root = parse_object(index);
  const auto map = root.find("weight_map");
  NIBBLE_CHECK(map != root.end() && map->is_object(), kOp,
               "{}: expected a \"weight_map\" from tensor to file", index);
  for (const auto& [tensor, shard] : map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : std::string();
    // An index must not reach out of its folder.
    NIBBLE_CHECK(!name.empty() && fs::path(name).filename() == name && name != "..", kOp,
                 "{}: '{}': got {}, expected the name of a file beside it", index, tensor,
                 short_text(shard));
    if (files_.contains(name)) continue;
    std::error_code error;  // a name may be too long for the file system
    NIBBLE_CHECK(fs::exists(folder_ / name, error), kOp, "{}: the shard {} is not there", index,
                 name.substr(0, 200));
    open(name);
  }
  for (const auto& [tensor, shard] : map->items()) {
    const SafetensorsFile* file = files_.at(shard.get<std::string>()).get();
    const Located* located = locate(tensor);
    NIBBLE_CHECK((located && located->first == file) || is_mask(without_prefix(tensor)), kOp,
                 "{}: '{}' is not in {}", index, tensor, file->path().string());
  }
}

const HfWeights::Located* HfWeights::locate(std::string_view name) const {
  const auto found = entries_.find(without_prefix(name));
  return found == entries_.end() ? nullptr : &found->second;
}

const SafetensorsFile::Entry* HfWeights::find(std::string_view name) const {
  const Located* located = locate(name);
  return located ? located->second : nullptr;
}

Tensor HfWeights::read(std::string_view name, const Shape& shape) const {
  const Located* located = locate(name);
  NIBBLE_CHECK(located, kOp, "{} holds no tensor '{}'", folder_.string(), name);
  const auto& [file, entry] = *located;
  NIBBLE_CHECK(entry->dtype == DType::F32 || entry->dtype == DType::BF16, kOp,
               "{}: '{}' is {}, expected f32 or bf16", file->path().string(), entry->name,
               entry->dtype);
  NIBBLE_CHECK(entry->shape == shape, kOp, "{}: '{}' has shape {}, expected {} by {}",
               file->path().string(), entry->name, entry->shape, shape, kHfConfigFile);
  return file->read(*entry).to(DType::F32);
}

bool HfWeights::same_bytes(std::string_view a, std::string_view b) const {
  const Located *first = locate(a), *second = locate(b);
  if (!first || !second || first->second->dtype != second->second->dtype) return false;
  const auto x = first->first->bytes(*first->second), y = second->first->bytes(*second->second);
  return std::equal(x.begin(), x.end(), y.begin(), y.end());
}

void HfWeights::check_names(const std::vector<std::string>& wanted) const {
  std::vector<std::string> spare;  // what is there and not wanted
  std::map<std::string_view, std::string> wanted_by_bare;
  for (const std::string& name : wanted) wanted_by_bare.emplace(without_prefix(name), name);
  for (const auto& [bare, located] : entries_)
    if (!wanted_by_bare.contains(bare))  // cut: a file may give names of megabytes
      spare.push_back(located.second->name.substr(0, 200));
  for (const std::string& name : wanted) {
    if (locate(name)) continue;
    NIBBLE_CHECK(!spare.empty(), kOp, "{} holds no tensor '{}'", folder_.string(), name);
    fail(kOp, "{} holds no tensor '{}'; the nearest that is there is '{}'", folder_.string(), name,
         config::nearest(name, spare));
  }
  NIBBLE_CHECK(spare.empty(), kOp,
               "{} holds '{}', which this GPT-2 does not have; the nearest that it has is '{}'",
               folder_.string(), spare.front(), config::nearest(spare.front(), wanted));
}

}  // namespace nibble::cli
