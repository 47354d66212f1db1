#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "data/bpe_trainer.h"
#include "data/word_cutter.h"
#include "temp_dir.h"
#include "tensor/check.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::read_file;
using nibble::test::TempDir;

namespace {

const std::filesystem::path kSource = NIBBLE_SOURCE_DIR;

WordCounts words_of(std::string_view text) {
  WordCounts counts;
  WordCutter().cut(text, [&](std::string_view word) { counts.add(word); });
  return counts;
}

TokenizeOptions text_options(std::vector<std::filesystem::path> inputs) {
  TokenizeOptions options;
  options.inputs = std::move(inputs);
  return options;
}

}  // namespace

TEST_CASE("data: the merges are those that counting every pair anew finds") {
  const auto cases = nlohmann::json::parse(read_file(kSource / "tests/golden/bpe_train.json"));
  REQUIRE(cases.size() > 60);
  const std::string book = read_file(kSource / "data/text/austen.txt");
  for (const nlohmann::json& item : cases) {
    const nlohmann::json& given = item.at("text");
    const std::string text =
        given.is_string() ? given.get<std::string>() : book.substr(0, given.get<std::size_t>());
    CAPTURE(text.substr(0, 80));
    const auto size = item.at("vocab_size").get<std::int32_t>();
    const BpeTokenizer::Tables tables = learn_bpe(words_of(text), size);
    CHECK(tables.merges == item.at("merges").get<std::vector<std::string>>());
    CHECK(tables.vocab.size() == 257 + tables.merges.size());
    CHECK(tables.vocab.back() == kEndOfText);
    // A tokenizer takes them: all tokens are distinct.
    const BpeTokenizer tokenizer(tables);
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("data: bytes have GPT-2's ids in a vocabulary of one's own") {
  const auto gpt2 =
      BpeTokenizer::from_files(kSource / "data/gpt2/vocab.bpe", kSource / "data/gpt2/encoder.json");
  const BpeTokenizer bytes(learn_bpe(WordCounts(), 257));
  CHECK(bytes.vocab_size() == 257);
  CHECK(bytes.end_of_text() == 256);
  for (std::int32_t id = 0; id < 256; ++id) CHECK(bytes.token_bytes(id) == gpt2.token_bytes(id));
}

TEST_CASE("data: sizes that no vocabulary can have are refused") {
  CHECK(message_of([] { learn_bpe(WordCounts(), 256); }) ==
        "bpe: got a vocabulary of 256 tokens expected 257 (all bytes and <|endoftext|>) to "
        "1048576");
  CHECK(message_of([] { learn_bpe(WordCounts(), (1 << 20) + 1); }).find("1048577") !=
        std::string::npos);
  const TempDir dir;
  const TokenizeOptions text = text_options({dir.write("a.jsonl", "{\"text\":\"\"}\n")});
  CHECK(message_of([&] { train_bpe(300, text); }) ==
        "bpe: the training text is empty: nothing to learn from");
  CHECK(message_of([&] { train_bpe(3, text); }).find("got a vocabulary of 3") != std::string::npos);
  CHECK(message_of([&] { train_bpe(300, {}); }) == "tokenize: got no input file");
}

TEST_CASE("data: a vocabulary is learned from the training part alone") {
  const TempDir dir;
  std::string head, tail;
  for (int i = 0; i < 500; ++i) head += "abc abc abc\n";
  for (int i = 0; i < 250; ++i) tail += "xyz xyz xyz\n";
  TokenizeOptions text = text_options({dir.write("a.txt", head + tail)});
  const std::size_t everything = train_bpe(300, text).tables.merges.size();
  text.val_fraction = 1.0 / 3;
  const BpeTraining by_fraction = train_bpe(300, text);
  CHECK(by_fraction.text_bytes == static_cast<std::int64_t>(head.size()));
  CHECK(by_fraction.tables.merges.size() < everything);

  text = text_options({dir.write("head.txt", head)});
  text.val_inputs = {dir.write("tail.txt", tail)};
  const BpeTraining by_file = train_bpe(300, text);
  CHECK(by_file.tables.merges == by_fraction.tables.merges);
  CHECK(by_file.tables.merges == learn_bpe(words_of(head), 300).merges);
  CHECK(by_file.words == 3);  // "abc", " abc" and the line end
}

TEST_CASE("data: what is learned does not depend on threads or pieces") {
  TokenizeOptions text = text_options({kSource / "data/text/austen.txt"});
  text.val_fraction = 0.1;
  std::vector<BpeTokenizer::Tables> learned;
  for (const int threads : {1, 3}) {
    text.threads = threads;
    // The second limit is low enough for words to be dropped.
    for (const std::size_t memory : {std::size_t{1} << 30, std::size_t{1} << 20}) {
      const BpeTraining training = train_bpe(512, text, memory);
      CHECK((training.dropped_below > 0) == (memory < 2 << 20));
      CHECK(training.tables.vocab.size() == 512);
      learned.push_back(training.tables);
    }
  }
  CHECK(learned[0].merges == learned[2].merges);
  CHECK(learned[1].merges == learned[3].merges);
  const std::string book = read_file(kSource / "data/text/austen.txt");
  const std::size_t border = book.find('\n', book.size() - book.size() / 10 - 1) + 1;
  CHECK(learned[0].merges == learn_bpe(words_of(book.substr(0, border)), 512).merges);
}

TEST_CASE("data: the rarest words go when memory is short, and common ones stay") {
  const TempDir dir;
  std::mt19937 random(5);
  std::string text;
  for (int i = 0; i < 200000; ++i) {
    text += i % 4 == 0 ? " common" : " ";
    for (int j = 0; i % 4 != 0 && j < 9; ++j) text += static_cast<char>('a' + random() % 26);
  }
  const std::size_t limit = 4 << 20;
  const BpeTraining training = train_bpe(300, text_options({dir.write("a.txt", text)}), limit);
  CHECK(training.dropped_below >= 1);
  CHECK(training.words * 48 < static_cast<std::int64_t>(limit));
  const BpeTokenizer tokenizer(training.tables);
  CHECK(tokenizer.encode(" common").size() == 1);
}

TEST_CASE("data: words of a megabyte are learned from in little time") {
  std::mt19937 random(6);
  std::string mixed(1 << 20, 'a'), bytes(1 << 18, '\0');
  for (char& c : mixed) c = static_cast<char>('a' + random() % 4);
  for (char& c : bytes) c = static_cast<char>(random());
  for (const std::string& text : {std::string(1 << 20, 'a'), mixed, bytes}) {
    const BpeTokenizer tokenizer(learn_bpe(words_of(text), 2000));
    CHECK(tokenizer.decode(tokenizer.encode(text)) == text);
  }
}

TEST_CASE("data: a vocabulary is written in GPT-2's two files and read back") {
  const TempDir dir;
  const std::string book = read_file(kSource / "data/text/austen.txt").substr(0, 50000);
  const BpeTokenizer learned(learn_bpe(words_of(book), 700));
  learned.write_files(dir / "new");
  const BpeTokenizer read =
      BpeTokenizer::from_files(dir / "new/vocab.bpe", dir / "new/encoder.json", "bpe");
  CHECK(fingerprint(read) == fingerprint(learned));
  CHECK(read_file(dir / "new/encoder.json").starts_with("{\"!\": 0, \"\\\"\": 1, \"#\": 2"));
  CHECK(message_of([&] {
          learned.write_files(dir.write("file", "") / "below");
        }).find("cannot create") != std::string::npos);
}

TEST_CASE("data: words are counted whatever their number") {
  WordCounts counts, twice;
  for (int i = 0; i < 5000; ++i) counts.add(std::to_string(i % 3000), 2);
  twice.add(counts);
  twice.add(counts);
  CHECK(twice.size() == 3000);
  std::uint64_t sum = 0;
  twice.for_each([&](std::string_view word, std::uint64_t count) {
    CHECK(count == (std::stoi(std::string(word)) < 2000 ? 8 : 4));
    sum += count;
  });
  CHECK(sum == 20000);
  twice.drop_rare(4);
  CHECK(twice.size() == 2000);
  CHECK(twice.text_bytes() == 10 + 90 * 2 + 900 * 3 + 1000 * 4);
}
