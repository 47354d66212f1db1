#include "data/hf_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/byte_source.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble {
namespace {

using nlohmann::json;
constexpr const char* kOp = "tokenizer";
constexpr const char* kSupported = "a byte-level BPE as GPT-2's is supported";

// Absent and null are the same in these files.
const json& at(const json& object, const char* key) {
  static const json null;
  const auto found = object.is_object() ? object.find(key) : object.end();
  return found == object.end() ? null : *found;
}

// "type" of a component, for messages; short whatever the file holds.
std::string kind_of(const json& component) {
  if (component.is_null()) return "none";
  const json& type = at(component, "type");
  if (!type.is_string()) return "one without a type";
  return type.get_ref<const std::string&>().substr(0, 40);
}

class Reader {
 public:
  explicit Reader(const std::filesystem::path& file) : file_(file.string()) {}

  BpeTokenizer read(const json& root) const {
    const json& model = at(root, "model");
    const json& pre_tokenizer = at(root, "pre_tokenizer");
    check_kind("model", model, "BPE");
    check_kind("pre_tokenizer", pre_tokenizer, "ByteLevel");
    if (!at(root, "decoder").is_null()) check_kind("decoder", at(root, "decoder"), "ByteLevel");
    NIBBLE_CHECK(at(root, "normalizer").is_null(), kOp, "{}: got normalizer {} expected none; {}",
                 file_, kind_of(at(root, "normalizer")), kSupported);
    check_off("pre_tokenizer.add_prefix_space", at(pre_tokenizer, "add_prefix_space"));
    check(at(pre_tokenizer, "use_regex") != false, "pre_tokenizer.use_regex", json(false), "true");
    for (const char* key :
         {"dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"}) {
      check_off(std::string("model.") + key, at(model, key));
    }
    BpeTokenizer::Tables tables{"bpe", vocab(root), merges(at(model, "merges"))};
    try {
      return BpeTokenizer(std::move(tables));
    } catch (const Error& error) {  // of which only the file is missing
      fail(kOp, "{}: {}", file_, std::string_view(error.what()).substr(error.op().size() + 2));
    }
  }

 private:
  void check_kind(const char* what, const json& component, std::string_view expected) const {
    const std::string kind = kind_of(component);
    NIBBLE_CHECK(kind == expected, kOp, "{}: got {} {} expected {}; {}", file_, what, kind,
                 expected, kSupported);
  }

  void check(bool good, std::string_view what, const json& got, std::string_view expected) const {
    NIBBLE_CHECK(good, kOp, "{}: {}: got {} expected {}; {}", file_, what, short_text(got),
                 expected, kSupported);
  }
  void check_off(std::string_view what, const json& value) const {
    const bool off = value.is_null() || value == false || value == "" ||
                     (value.is_number() && value.get<double>() == 0);
    check(off, what, value, "none");
  }

  static std::string short_text(const json& value) {
    std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
    if (text.size() > 60) text = text.substr(0, 57) + "...";
    return text;
  }

  // Tokens by id, of the model and those added to it.
  std::vector<std::string> vocab(const json& root) const {
    json ids = at(at(root, "model"), "vocab");
    check(ids.is_object(), "model.vocab", ids, "an object from token to id");
    const json& added = at(root, "added_tokens");
    check(added.is_null() || added.is_array(), "added_tokens", added, "a list");
    for (const json& item : added) add(item, ids);

    std::vector<std::string> tokens(ids.size());
    for (const auto& [token, id] : ids.items()) {
      const std::size_t index = id.is_number_unsigned() ? id.get<std::size_t>() : tokens.size();
      NIBBLE_CHECK(index < tokens.size() && tokens[index].empty() && !token.empty(), kOp,
                   "{}: token {}: got id {} expected each of 0 to {} once", file_,
                   short_text(token), short_text(id), tokens.size() - 1);
      tokens[index] = token;
    }
    return tokens;
  }

  void add(const json& item, json& ids) const {
    const json& content = at(item, "content");
    check(content.is_string(), "added_tokens", item, "an object with \"content\"");
    const auto& token = content.get_ref<const std::string&>();
    // Those that are not special take part in every encoding, ahead of the merges.
    check(at(item, "special") == true, "added_tokens", item, "special tokens only");
    // In GPT-2's spelling these characters, and no others, are themselves.
    const bool plain =
        std::all_of(token.begin(), token.end(), [](char c) { return c > ' ' && c < '\x7F'; });
    check(plain && !token.empty(), "added_tokens", content, "printable ASCII without spaces");
    const auto [known, fresh] = ids.emplace(token, at(item, "id"));
    check(fresh || *known == at(item, "id"), "added_tokens", item,
          fmt::format("the id in model.vocab, {}", short_text(*known)));
  }

  std::vector<std::string> merges(const json& list) const {
    check(list.is_array(), "model.merges", list, "a list");
    std::vector<std::string> merges;
    for (const json& merge : list) {
      const bool pair =
          merge.is_array() && merge.size() == 2 && merge[0].is_string() && merge[1].is_string();
      check(pair || merge.is_string(), fmt::format("model.merges[{}]", merges.size()), merge,
            "\"left right\" or [\"left\", \"right\"]");
      merges.push_back(pair ? merge[0].get<std::string>() + " " + merge[1].get<std::string>()
                            : merge.get<std::string>());
    }
    return merges;
  }

  std::string file_;
};

json parse(const std::filesystem::path& file) {
  json root = parse_json<json>(read_whole_file(file));
  NIBBLE_CHECK(root.is_object(), kOp, "{} is not a tokenizer.json: expected a JSON object",
               file.string());
  return root;
}

}  // namespace

BpeTokenizer read_hf_tokenizer(const std::filesystem::path& file) {
  return Reader(file).read(parse(file));
}

std::unique_ptr<Tokenizer> read_tokenizer_file(const std::filesystem::path& file) {
  const json root = parse(file);
  if (root.contains("type")) return make_tokenizer(root);  // only Nibble's own name it there
  return std::make_unique<BpeTokenizer>(Reader(file).read(root));
}

}  // namespace nibble
