#include <doctest/doctest.h>
#include <zlib.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <thread>

#include "data/bpe_tokenizer.h"
#include "data/tokenizer.h"
#include "temp_dir.h"
#include "tensor/check.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::TempDir;

namespace {

const std::filesystem::path kSource = NIBBLE_SOURCE_DIR;

const BpeTokenizer& gpt2() {
  static const BpeTokenizer tokenizer =
      BpeTokenizer::from_files(kSource / "data/gpt2/vocab.bpe", kSource / "data/gpt2/encoder.json");
  return tokenizer;
}

std::string random_bytes(std::mt19937& random, std::size_t count) {
  std::string bytes(count, '\0');
  for (char& byte : bytes) byte = static_cast<char>(random());
  return bytes;
}

std::vector<std::int32_t> join(std::vector<std::int32_t> a, const std::vector<std::int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

std::string utf8_of(std::uint32_t code) {
  if (code < 0x80) return {static_cast<char>(code)};
  std::string bytes;
  const int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
  bytes += static_cast<char>((0xF0u << (3 - more) & 0xFFu) | code >> 6 * more);
  for (int i = more; i-- > 0;) bytes += static_cast<char>(0x80 | (code >> 6 * i & 0x3F));
  return bytes;
}

// Of ids as uint16, as tests/golden/make_tiktoken.py takes it.
std::uint32_t checksum(const std::vector<std::int32_t>& ids) {
  const std::vector<std::uint16_t> narrow(ids.begin(), ids.end());
  return static_cast<std::uint32_t>(
      crc32_z(0, reinterpret_cast<const Bytef*>(narrow.data()), narrow.size() * 2));
}

// A vocabulary of the 256 bytes, "ab" and the separator, spelled from the real one.
BpeTokenizer::Tables small_tables() {
  BpeTokenizer::Tables tables{"small", {}, {"a b"}};
  const nlohmann::json vocab = gpt2().to_json().at("vocab");
  for (std::size_t id = 0; id < 256; ++id) tables.vocab.push_back(vocab[id].get<std::string>());
  tables.vocab.insert(tables.vocab.end(), {"ab", std::string(kEndOfText)});
  return tables;
}

}  // namespace

TEST_CASE("data: byte tokens are the bytes, and one separator") {
  const ByteTokenizer bytes;
  CHECK(bytes.vocab_size() == 257);
  CHECK(bytes.end_of_text() == 256);
  CHECK(bytes.encode(std::string_view("a\xFF\0", 3)) == std::vector<std::int32_t>{97, 255, 0});
  CHECK(bytes.encode(kEndOfText).size() == kEndOfText.size());
  CHECK(bytes.encode_with_special("a<|endoftext|>b<|endoftext|>") ==
        std::vector<std::int32_t>{97, 256, 98, 256});
  CHECK(bytes.decode(std::vector<std::int32_t>{104, 105, 256}) == "hi<|endoftext|>");
  CHECK_THROWS_AS(bytes.token_bytes(257), Error);
  CHECK_THROWS_AS(bytes.token_bytes(-1), Error);
}

TEST_CASE("data: GPT-2 tokens are tiktoken's") {
  std::ifstream file(kSource / "tests/golden/bpe.json");
  const nlohmann::json cases = nlohmann::json::parse(file);
  REQUIRE(cases.size() > 150);
  for (const nlohmann::json& item : cases) {
    const auto text = item.at("text").get<std::string>();
    CAPTURE(text.substr(0, 80));
    const std::vector<std::int32_t> ids = gpt2().encode(text);
    CHECK(ids == item.at("ids").get<std::vector<std::int32_t>>());
    CHECK(gpt2().decode(ids) == text);
  }
}

TEST_CASE("data: GPT-2 tokens are tiktoken's for every character and for bytes that are none") {
  const nlohmann::json golden =
      nlohmann::json::parse(test::read_file(kSource / "tests/golden/tiktoken.json"));
  for (const nlohmann::json& block : golden.at("blocks")) {
    const auto begin = block[0].get<std::uint32_t>();
    CAPTURE(begin);
    std::string text;
    for (std::uint32_t code = begin; code < begin + 4096; ++code) {
      if (code >= 0xD800 && code < 0xE000) continue;
      const std::string c = utf8_of(code);
      text += "a" + c + "1" + c + " " + c + "! " + c + c + "\n";
    }
    CHECK(checksum(gpt2().encode(text)) == block[1].get<std::uint32_t>());
  }
  REQUIRE(golden.at("bytes").size() > 400);
  for (const nlohmann::json& item : golden.at("bytes")) {
    const auto hex = item.at("hex").get<std::string>();
    CAPTURE(hex);
    std::string text;
    for (std::size_t i = 0; i < hex.size(); i += 2) {
      text += static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16));
    }
    CHECK(gpt2().encode(text) == item.at("ids").get<std::vector<std::int32_t>>());
  }
}

TEST_CASE("data: GPT-2 tokens are tiktoken's on lines of a megabyte") {
  const nlohmann::json golden =
      nlohmann::json::parse(test::read_file(kSource / "tests/golden/tiktoken.json"));
  for (const nlohmann::json& line : golden.at("lines")) {
    const auto unit = line.at("unit").get<std::string>();
    CAPTURE(unit);
    std::string text;
    for (int i = 0, n = line.at("count").get<int>(); i < n; ++i) text += unit;
    const std::vector<std::int32_t> ids = gpt2().encode(text);
    CHECK(ids.size() == line.at("tokens").get<std::size_t>());
    CHECK(checksum(ids) == line.at("crc32").get<std::uint32_t>());
  }
}

TEST_CASE("data: GPT-2's separator is text unless asked for") {
  CHECK(gpt2().vocab_size() == 50257);
  CHECK(gpt2().end_of_text() == 50256);
  CHECK(gpt2().encode(kEndOfText).size() > 1);
  CHECK(gpt2().encode_with_special(kEndOfText) == std::vector<std::int32_t>{50256});
  CHECK(gpt2().decode(std::vector<std::int32_t>{50256}) == kEndOfText);
}

TEST_CASE("data: every byte string survives encoding and decoding") {
  std::mt19937 random(1);
  const ByteTokenizer bytes;
  for (int round = 0; round < 300; ++round) {
    const std::string text = random_bytes(random, random() % 400);
    CHECK(gpt2().decode(gpt2().encode(text)) == text);
    CHECK(bytes.decode(bytes.encode(text)) == text);
  }
}

TEST_CASE("data: invalid UTF-8 is a word of its own") {
  // Overlong, surrogate, above U+10FFFF, cut short, stray continuation, never valid.
  for (const char* bad : {"\xC0\xAF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80",
                          "\xE2\x82", "\x80", "\xFE\xFF", "\xF0\x9F\x98"}) {
    const std::string text = std::string("word ") + bad + " 's";
    const auto expected =
        join(join(gpt2().encode("word "), gpt2().encode(bad)), gpt2().encode(" 's"));
    CHECK(gpt2().encode(text) == expected);
    CHECK(gpt2().decode(expected) == text);
  }
  // A character right after a broken one is still seen.
  CHECK(gpt2().encode("\xE2\x82\xC3\xA9") ==
        join(gpt2().encode("\xE2\x82"), gpt2().encode("\xC3\xA9")));
}

TEST_CASE("data: a megabyte without a space is one word, and no attack") {
  std::mt19937 random(2);
  std::string letters(1 << 20, 'a');
  for (const std::string& text :
       {letters, std::string(1 << 20, ' '), random_bytes(random, 1 << 18)}) {
    CHECK(gpt2().decode(gpt2().encode(text)) == text);
  }
  for (char& c : letters) c = static_cast<char>('a' + random() % 8);
  CHECK(gpt2().decode(gpt2().encode(letters)) == letters);
}

TEST_CASE("data: a safe cut changes no token") {
  std::mt19937 random(3);
  const std::string pool = " \n\t.'sdmtl12aZ\xC2\xA0\xE3\x80\x80\xFF";
  for (int round = 0; round < 2000; ++round) {
    std::string text;
    for (std::size_t i = 0, n = 1 + random() % 30; i < n; ++i) text += pool[random() % pool.size()];
    const std::size_t end = 1 + random() % text.size();
    const std::size_t cut = gpt2().safe_cut(std::string_view(text).substr(0, end));
    REQUIRE(cut < end);
    CHECK(join(gpt2().encode(text.substr(0, cut)), gpt2().encode(text.substr(cut))) ==
          gpt2().encode(text));
  }
  CHECK(gpt2().safe_cut("ab cd") == 2);
  CHECK(gpt2().safe_cut("ab cd ") == 5);
  CHECK(gpt2().safe_cut("  abcd") == 0);
  CHECK(gpt2().safe_cut("") == 0);
}

TEST_CASE("data: tokens do not depend on what was encoded before or on other threads") {
  const std::string text = test::read_file(kSource / "data/text/austen.txt").substr(0, 100000);
  const std::vector<std::int32_t> expected = gpt2().encode(text);
  std::vector<std::vector<std::int32_t>> got(4);
  std::vector<std::thread> threads;
  for (auto& ids : got) threads.emplace_back([&] { ids = gpt2().encode(text); });
  for (std::thread& thread : threads) thread.join();
  for (const auto& ids : got) CHECK(ids == expected);
}

TEST_CASE("data: a tokenizer is rebuilt from its description") {
  const auto again = make_tokenizer(nlohmann::json::parse(gpt2().to_json().dump()));
  CHECK(again->name() == "gpt2");
  CHECK(again->encode("It's the same, naïve text") == gpt2().encode("It's the same, naïve text"));
  CHECK(fingerprint(*again) == fingerprint(gpt2()));
  CHECK(make_tokenizer(ByteTokenizer().to_json())->vocab_size() == 257);
  CHECK(fingerprint(ByteTokenizer()) != fingerprint(gpt2()));

  CHECK(message_of([] { make_tokenizer(nlohmann::json::array()); }).find("without a \"type\"") !=
        std::string::npos);
  CHECK(message_of([] {
          make_tokenizer({{"type", "words"}});
        }) == "tokenizer: got type \"words\" expected \"byte\", \"bpe\" or \"unknown\"");
  CHECK(message_of([] {
          make_tokenizer({{"type", "bpe"}, {"name", "x"}});
        }).find("vocab") != std::string::npos);
}

TEST_CASE("data: tables that do not fit together are refused") {
  const auto message = [](auto&& change) {
    BpeTokenizer::Tables tables = small_tables();
    change(tables);
    return message_of([&] { BpeTokenizer tokenizer(std::move(tables)); });
  };
  CHECK(message([](auto&) {}) == "");
  CHECK(message([](auto& t) { t.vocab[3] = t.vocab[4]; }).find("twice") != std::string::npos);
  CHECK(message([](auto& t) { t.vocab[0] = "zz"; }) ==
        "tokenizer: the vocabulary has no token \"!\"");
  CHECK(message([](auto& t) { t.vocab.pop_back(); }).find("<|endoftext|>") != std::string::npos);
  CHECK(message([](auto& t) { t.vocab.push_back("\xE4\xB8\xAD"); }).find("spelling") !=
        std::string::npos);
  CHECK(message([](auto& t) { t.merges[0] = "ab"; }).find("merge 0") != std::string::npos);
  CHECK(message([](auto& t) { t.merges.push_back("b a"); }).find("no token \"ba\"") !=
        std::string::npos);
  CHECK(message([](auto& t) { t.merges.push_back("a b"); }).find("comes twice") !=
        std::string::npos);
}

TEST_CASE("data: vocabulary files that are missing or foreign are named") {
  const TempDir dir;
  const auto vocab = kSource / "data/gpt2/vocab.bpe", encoder = kSource / "data/gpt2/encoder.json";
  const auto message = [](const auto& merges, const auto& ids) {
    return message_of([&] { BpeTokenizer::from_files(merges, ids); });
  };
  CHECK(message(dir / "none.bpe", encoder).find("none.bpe") != std::string::npos);
  CHECK(
      message(vocab, dir.write("cut.json", "{\"a\": 1")).find("cut.json: expected a JSON object") !=
      std::string::npos);
  CHECK(
      message(vocab, dir.write("gap.json", "{\"a\": 0, \"b\": 2}")).find("gap.json: token \"b\"") !=
      std::string::npos);
  // The value would be quoted, by recursion.
  const std::string deep = "{\"a\": " + std::string(1 << 20, '[') + std::string(1 << 20, ']') + "}";
  CHECK(message(vocab, dir.write("deep.json", deep)).find("deep.json: expected a JSON object") !=
        std::string::npos);
  CHECK(message(dir.write("empty.bpe", "#version: 0.2\n"), encoder).find("holds no merges") !=
        std::string::npos);
}
