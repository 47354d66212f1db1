#include "data/dataset.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <array>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>

#include "data/byte_source.h"
#include "tensor/atomic_file.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble {
namespace {

using nlohmann::json;
constexpr const char* kOp = "data";
constexpr const char* kFormat = "nibble-dataset";
constexpr int kVersion = 1;

// 64-bit numbers as text: JSON readers elsewhere keep 53 bits.
std::string to_hex(std::uint64_t value) { return fmt::format("{:016x}", value); }

std::uint64_t from_hex(const std::string& text, const std::filesystem::path& file) {
  std::uint64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, status] = std::from_chars(text.data(), end, value, 16);
  NIBBLE_CHECK(status == std::errc{} && rest == end, kOp,
               "{}: got hash \"{}\" expected 16 hex digits", file.string(), text.substr(0, 60));
  return value;
}

// nlohmann would cut 1.5 to 1 and take 2^63 for a negative number.
std::int64_t count_from(const json& value, const std::filesystem::path& file, const char* what) {
  const bool good =
      value.is_number_integer() && value >= 0 && value <= std::numeric_limits<std::int64_t>::max();
  NIBBLE_CHECK(good, kOp, "{}: {}: got {} expected a whole number from 0", file.string(), what,
               value.dump().substr(0, 60));
  return value.get<std::int64_t>();
}

json to_json(const Split& split) {
  json out = {{"shards", split.shards},
              {"tokens", split.tokens},
              {"documents", split.documents},
              {"text_bytes", split.text_bytes},
              {"xxh64", to_hex(split.content_hash)}};
  for (const Stratum& stratum : split.strata) {
    json ranges = json::array();
    for (const auto [begin, end] : stratum.ranges) ranges.push_back({begin, end});
    out["strata"].push_back({{"source", stratum.source},
                             {"documents", stratum.documents},
                             {"text_bytes", stratum.text_bytes},
                             {"ranges", ranges}});
  }
  return out;
}

Split split_from(const json& in, const std::filesystem::path& file) {
  Split split;
  in.at("shards").get_to(split.shards);
  for (const std::string& shard : split.shards)  // a dataset must not reach out of its folder
    NIBBLE_CHECK(std::filesystem::path(shard).filename() == shard && shard != ".." && shard != ".",
                 kOp, "{}: got shard \"{}\" expected the name of a file beside it", file.string(),
                 shard.substr(0, 60));
  split.tokens = count_from(in.at("tokens"), file, "tokens");
  split.documents = count_from(in.at("documents"), file, "documents");
  split.text_bytes = count_from(in.at("text_bytes"), file, "text_bytes");
  split.content_hash = from_hex(in.at("xxh64").get<std::string>(), file);
  for (const json& item : in.value("strata", json::array())) {
    Stratum& stratum = split.strata.emplace_back();
    item.at("source").get_to(stratum.source);
    stratum.documents = count_from(item.at("documents"), file, "documents");
    stratum.text_bytes = count_from(item.at("text_bytes"), file, "text_bytes");
    std::int64_t end = 0;
    for (const json& range : item.at("ranges")) {
      const std::int64_t begin = count_from(range.at(0), file, "ranges");
      NIBBLE_CHECK(begin >= end, kOp,
                   "{}: ranges of \"{}\": got {} after {} expected them ascending", file.string(),
                   stratum.source.substr(0, 60), begin, end);
      end = count_from(range.at(1), file, "ranges");
      NIBBLE_CHECK(begin < end && end <= split.tokens, kOp,
                   "{}: ranges of \"{}\": got {} to {} expected them within the {} tokens",
                   file.string(), stratum.source.substr(0, 60), begin, end, split.tokens);
      stratum.ranges.push_back({begin, end});
    }
  }
  return split;
}

json parse_file(const std::filesystem::path& file) {
  json parsed = parse_json<json>(read_whole_file(file));
  NIBBLE_CHECK(!parsed.is_discarded(), kOp, "{} is not JSON, or cut off", file.string());
  return parsed;
}

}  // namespace

Dataset read_dataset(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / kDatasetFile;
  NIBBLE_CHECK(std::filesystem::exists(file), kOp,
               "{} holds no dataset: {} is missing; hint: nibble tokenize makes one",
               folder.string(), kDatasetFile);
  const json in = parse_file(file);
  NIBBLE_CHECK(in.is_object() && in.value("format", json()) == kFormat, kOp,
               "{} does not describe a dataset", file.string());
  NIBBLE_CHECK(in.value("version", json()) == kVersion, kOp, "{}: got version {} expected {}",
               file.string(), in.value("version", json()).dump().substr(0, 60), kVersion);
  try {
    Dataset dataset;
    const json& tokenizer = in.at("tokenizer");
    tokenizer.at("name").get_to(dataset.tokenizer_name);
    dataset.vocab_size = count_from(tokenizer.at("vocab_size"), file, "vocab_size");
    dataset.tokenizer_fingerprint = from_hex(tokenizer.at("xxh64").get<std::string>(), file);
    dataset.train = split_from(in.at("train"), file);
    dataset.val = split_from(in.at("val"), file);
    return dataset;
  } catch (const json::exception& error) {
    fail(kOp, "{}: {}", file.string(), error.what());
  }
}

std::unique_ptr<Tokenizer> read_dataset_tokenizer(const std::filesystem::path& folder) {
  std::unique_ptr<Tokenizer> tokenizer = make_tokenizer(parse_file(folder / kTokenizerFile));
  const std::uint64_t expected = read_dataset(folder).tokenizer_fingerprint;
  NIBBLE_CHECK(fingerprint(*tokenizer) == expected, kOp,
               "{}: got a tokenizer of hash {} expected {}, with which the dataset was made",
               (folder / kTokenizerFile).string(), to_hex(fingerprint(*tokenizer)),
               to_hex(expected));
  return tokenizer;
}

void write_dataset(const std::filesystem::path& folder, const Dataset& dataset,
                   const Tokenizer& tokenizer) {
  write_file_atomically(folder / kTokenizerFile, tokenizer.to_json().dump() + "\n", kOp);
  const json out = {{"format", kFormat},
                    {"version", kVersion},
                    {"tokenizer",
                     {{"name", dataset.tokenizer_name},
                      {"vocab_size", dataset.vocab_size},
                      {"xxh64", to_hex(dataset.tokenizer_fingerprint)}}},
                    {"train", to_json(dataset.train)},
                    {"val", to_json(dataset.val)}};
  write_file_atomically(folder / kDatasetFile, out.dump(1) + "\n", kOp);
}

const Split& split_named(const Dataset& dataset, std::string_view name) {
  NIBBLE_CHECK(name == "train" || name == "val", kOp, "got split \"{}\" expected train or val",
               name);
  return name == "train" ? dataset.train : dataset.val;
}

std::vector<std::filesystem::path> shard_paths(const std::filesystem::path& folder,
                                               const Split& split) {
  std::vector<std::filesystem::path> paths;
  for (const std::string& shard : split.shards) paths.push_back(folder / shard);
  return paths;
}

std::uint64_t content_hash(const Dataset& dataset) {
  const std::array parts{dataset.tokenizer_fingerprint, dataset.train.content_hash,
                         dataset.val.content_hash};
  return XXH64(parts.data(), sizeof(parts), 0);
}

}  // namespace nibble
