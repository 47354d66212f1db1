#include <doctest/doctest.h>

#include <nlohmann/json.hpp>

#include "data/hf_tokenizer.h"
#include "temp_dir.h"
#include "tensor/check.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::read_file;
using nibble::test::TempDir;
using nlohmann::json;

namespace {

const std::filesystem::path kSource = NIBBLE_SOURCE_DIR;

const json& golden() {
  static const json whole = json::parse(read_file(kSource / "tests/golden/hf_tokenizer.json"));
  return whole;
}

BpeTokenizer read(const TempDir& dir, const json& file) {
  return read_hf_tokenizer(dir.write("tokenizer.json", file.dump()));
}

}  // namespace

TEST_CASE("data: tokens of a tokenizer.json are those of Hugging Face") {
  const TempDir dir;
  json file = golden().at("tokenizer");
  for (const bool merges_as_pairs : {true, false}) {
    for (json& merge : file.at("model").at("merges")) {
      REQUIRE(merge.is_array());
      if (!merges_as_pairs) merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
    }
    const BpeTokenizer tokenizer = read(dir, file);
    CHECK(tokenizer.vocab_size() == 601);
    CHECK(tokenizer.end_of_text() == 1);
    CHECK(tokenizer.token_bytes(600) == "[MASK]");
    for (const json& item : golden().at("cases")) {
      const auto text = item.at("text").get<std::string>();
      CAPTURE(text.substr(0, 80));
      const std::vector<std::int32_t> ids = tokenizer.encode(text);
      CHECK(ids == item.at("ids").get<std::vector<std::int32_t>>());
      CHECK(tokenizer.decode(ids) == text);
    }
    CHECK(tokenizer.encode("<pad>").size() > 1);
  }
}

TEST_CASE("data: GPT-2 in a tokenizer.json is GPT-2") {
  const TempDir dir;
  const auto gpt2 = BpeTokenizer::from_files(kSource / "data/gpt2/vocab.bpe",
                                             kSource / "data/gpt2/encoder.json", "bpe");
  json file = golden().at("tokenizer");
  const json tables = gpt2.to_json();
  json& vocab = file.at("model").at("vocab") = json::object();
  for (const json& token : tables.at("vocab")) vocab[token.get<std::string>()] = vocab.size();
  file.at("model").at("merges") = tables.at("merges");
  file.at("added_tokens") = {{{"id", 50256}, {"content", kEndOfText}, {"special", true}}};
  const auto path = dir.write("tokenizer.json", file.dump());
  CHECK(fingerprint(read_hf_tokenizer(path)) == fingerprint(gpt2));
  CHECK(fingerprint(*read_tokenizer_file(path)) == fingerprint(gpt2));
}

TEST_CASE("data: a dataset's own tokenizer.json is read too") {
  const TempDir dir;
  const auto path = dir.write("tokenizer.json", ByteTokenizer().to_json().dump());
  CHECK(fingerprint(*read_tokenizer_file(path)) == fingerprint(ByteTokenizer()));
}

TEST_CASE("data: a tokenizer.json of another kind is refused in one line") {
  const TempDir dir;
  const json wordpiece = {{"type", "WordPiece"}}, replace = {{"type", "Replace"}};
  const json split = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  const auto added = [](json content, json id, bool special) {
    return json::array({{{"content", content}, {"id", id}, {"special", special}}});
  };
  struct Case {
    const char* place;
    json value;
    const char* message;
  };
  for (const auto& [place, value, message] : std::initializer_list<Case>{
           {"/model", wordpiece, "got model WordPiece expected BPE; a byte-level BPE as GPT-2's"},
           {"/model/type", "Unigram", "got model Unigram expected BPE"},
           {"/model/type", 7, "got model one without a type expected BPE"},
           {"/model", nullptr, "got model none expected BPE"},
           {"/pre_tokenizer", nullptr, "got pre_tokenizer none expected ByteLevel"},
           {"/pre_tokenizer", split, "got pre_tokenizer Sequence expected ByteLevel"},
           {"/pre_tokenizer/type", "Metaspace", "got pre_tokenizer Metaspace expected ByteLevel"},
           {"/pre_tokenizer/add_prefix_space", true, "add_prefix_space: got true expected none"},
           {"/pre_tokenizer/use_regex", false, "use_regex: got false expected true"},
           {"/decoder/type", "BPEDecoder", "got decoder BPEDecoder expected ByteLevel"},
           {"/normalizer", replace, "got normalizer Replace expected none"},
           {"/model/dropout", 0.1, "model.dropout: got 0.1 expected none"},
           {"/model/ignore_merges", true, "model.ignore_merges: got true expected none"},
           {"/model/end_of_word_suffix", "</w>", "end_of_word_suffix: got \"</w>\" expected none"},
           {"/model/vocab", json::array(), "model.vocab: got [] expected an object"},
           {"/model/vocab/!", 3, "expected each of 0 to 600 once"},
           {"/model/vocab/!", 601, "token \"!\": got id 601 expected each of 0 to 600 once"},
           {"/model/vocab/!", -1, "token \"!\": got id -1"},
           {"/model/vocab/!", "2", "token \"!\": got id \"2\""},
           {"/model/merges", "h e", "model.merges: got \"h e\" expected a list"},
           {"/model/merges/1", json::array({"h"}), "model.merges[1]: got [\"h\"] expected \"left"},
           {"/model/merges/1", "q q", "tokenizer.json: the vocabulary has no token \"qq\""},
           {"/model/merges/1", json::array({"h", "e x"}), "merge 1: got \"h e x\""},
           {"/added_tokens", 5, "added_tokens: got 5 expected a list"},
           {"/added_tokens/0", 5, "expected an object with \"content\""},
           {"/added_tokens", added("  ", 601, false), "expected special tokens only"},
           {"/added_tokens", added("\xC3\xA9", 601, true), "expected printable ASCII"},
           {"/added_tokens", added("[A]", 700, true), "token \"[A]\": got id 700"},
           {"/added_tokens/0/id", 9, "expected the id in model.vocab, 0"}}) {
    CAPTURE(place);
    json file = golden().at("tokenizer");
    file[json::json_pointer(place)] = value;
    const std::string got = message_of([&] { read(dir, file); });
    CHECK(got.find(message) != std::string::npos);
    CHECK(got.starts_with("tokenizer: "));
    CHECK(got.find("tokenizer.json") != std::string::npos);
    CHECK(got.find('\n') == std::string::npos);
    CHECK(got.size() < 400);
  }
}

TEST_CASE("data: a tokenizer.json without a separator or all bytes is refused") {
  const TempDir dir;
  const auto without = [&](const char* token) {
    json file = golden().at("tokenizer");
    json& vocab = file.at("model").at("vocab");
    const json gone = vocab.at(token);
    vocab.erase(token);
    for (json& id : vocab) {
      if (id > gone) id = id.get<int>() - 1;
    }
    file.at("added_tokens") = json::array();
    return message_of([&] { read(dir, file); });
  };
  CHECK(without("<|endoftext|>").find("no token \"<|endoftext|>\"") != std::string::npos);
  CHECK(without("~").find("no token \"~\"") != std::string::npos);
  for (const char* text : {"", "{", "[]", "3", "{\"a\":\"\xFF\"}"}) {
    CAPTURE(text);
    const auto path = dir.write("bad.json", text);
    CHECK(message_of([&] { read_tokenizer_file(path); }).find("bad.json") != std::string::npos);
  }
}
