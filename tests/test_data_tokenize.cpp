#include <doctest/doctest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "data/bpe_tokenizer.h"
#include "data/token_stream.h"
#include "data/tokenize.h"
#include "temp_dir.h"
#include "tensor/check.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::read_file;
using nibble::test::TempDir;

namespace {

namespace fs = std::filesystem;
const ByteTokenizer kBytes;
const fs::path kSource = NIBBLE_SOURCE_DIR;

std::vector<std::int32_t> tokens_of(const fs::path& folder, const Split& split) {
  if (split.shards.empty()) return {};
  const TokenStream stream(shard_paths(folder, split), 1 << 20);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(stream.size()));
  stream.read(0, tokens);
  return tokens;
}

// Byte tokens as text, the separator as '|'.
std::string text_of(const fs::path& folder, const Split& split) {
  std::string text;
  for (const std::int32_t token : tokens_of(folder, split)) {
    text += token == 256 ? '|' : static_cast<char>(token);
  }
  return text;
}

BpeTokenizer load_gpt2() {
  return BpeTokenizer::from_files(kSource / "data/gpt2/vocab.bpe",
                                  kSource / "data/gpt2/encoder.json");
}

std::string every_file(const fs::path& folder) {
  std::vector<fs::path> paths;
  for (const auto& entry : fs::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::string all;
  for (const fs::path& path : paths) all += path.filename().string() + ":" + read_file(path);
  return all;
}

}  // namespace

TEST_CASE("data: documents of all kinds follow each other, each after a separator") {
  const TempDir dir;
  TokenizeOptions options;
  options.inputs = {
      dir.write("a.txt", "first\n"),
      dir.write("b.jsonl", "{\"text\":\"second\"}\n{\"text\":\"\"}\n{\"text\":\"<|endoftext|>\"}"),
      dir.write("c.txt",
                "\xFF"
                "last")};
  options.output = dir / "out";
  options.tokens_per_shard = 10;
  std::vector<TokenizeProgress> seen;
  options.progress = [&](const TokenizeProgress& progress) { seen.push_back(progress); };
  const Dataset dataset = tokenize_files(kBytes, options);
  CHECK(text_of(options.output, dataset.train) ==
        "|first\n|second||<|endoftext|>|\xFF"
        "last");
  CHECK(dataset.train.documents == 5);
  CHECK(dataset.train.text_bytes == 6 + 6 + 0 + 13 + 5);
  CHECK(dataset.train.tokens == 30 + 5);
  CHECK(dataset.train.shards.size() == 4);
  CHECK(dataset.val.tokens == 0);
  REQUIRE(!seen.empty());
  CHECK(seen.back().text_bytes == 30);
  CHECK(seen.back().documents == 5);
}

TEST_CASE("data: a dataset's description is read back") {
  const TempDir dir;
  TokenizeOptions options;
  options.inputs = {dir.write("a.txt", "text for training")};
  options.val_inputs = {
      dir.write("v.jsonl",
                "{\"text\":\"abc\",\"source\":\"x\"}\n{\"text\":\"d\",\"source\":\"y\"}\n"
                "{\"text\":\"ef\",\"source\":\"y\"}\n{\"text\":\"g\",\"source\":\"x\"}")};
  options.output = dir / "out";
  const Dataset made = tokenize_files(kBytes, options);
  const Dataset got = read_dataset(options.output);
  CHECK(got.vocab_size == 257);
  CHECK(got.tokenizer_name == "byte");
  CHECK(text_of(options.output, got.val) == "|abc|d|ef|g");
  CHECK(got.train.text_bytes == 17);
  CHECK(content_hash(got) == content_hash(made));
  CHECK(read_dataset_tokenizer(options.output)->vocab_size() == 257);
  CHECK(&split_named(got, "val") == &got.val);
  CHECK_THROWS_AS(split_named(got, "test"), Error);

  REQUIRE(got.val.strata.size() == 2);
  const Stratum& x = got.val.strata[0];
  CHECK(x.source == "x");
  CHECK(x.documents == 2);
  CHECK(x.text_bytes == 4);
  REQUIRE(x.ranges.size() == 2);
  CHECK(x.ranges[0].begin == 0);
  CHECK(x.ranges[0].end == 4);
  CHECK(x.ranges[1].begin == 9);
  CHECK(x.ranges[1].end == 11);
  REQUIRE(got.val.strata[1].ranges.size() == 1);
  CHECK(got.val.strata[1].ranges[0].begin == 4);
  CHECK(got.val.strata[1].ranges[0].end == 9);
}

TEST_CASE("data: a validation fraction is the text's tail, from a line or document on") {
  const TempDir dir;
  const auto split = [&](std::vector<fs::path> inputs, double fraction) {
    TokenizeOptions options;
    options.inputs = std::move(inputs);
    options.output = dir / "out";
    options.val_fraction = fraction;
    fs::remove_all(options.output);
    const Dataset dataset = tokenize_files(kBytes, options);
    return text_of(options.output, dataset.train) + " / " + text_of(options.output, dataset.val);
  };
  const auto lines = dir.write("a.txt", "aaaa\nbbbb\ncccc\ndddd\n");
  CHECK(split({lines}, 0.25) == "|aaaa\nbbbb\ncccc\n / |dddd\n");
  CHECK(split({lines}, 0.30) == "|aaaa\nbbbb\ncccc\n / |dddd\n");
  CHECK(split({lines}, 0.5) == "|aaaa\nbbbb\n / |cccc\ndddd\n");
  CHECK(split({lines, dir.write("b.txt", "eeee\nffff\n")}, 0.33) ==
        "|aaaa\nbbbb\ncccc\ndddd\n / |eeee\nffff\n");
  const auto documents =
      dir.write("c.jsonl", "{\"text\":\"a\\nb\\nc\"}\n{\"text\":\"d\\ne\"}\n{\"text\":\"f\"}");
  CHECK(split({documents}, 0.6) == "|a\nb\nc / |d\ne|f");
  CHECK(split({documents}, 0.3) == "|a\nb\nc|d\ne / |f");

  // A border on the seam of two pieces, and one that no later line end follows.
  std::string text(std::size_t{1} << 20, 'x');
  text.back() = '\n';
  CHECK(split({dir.write("d.txt", text + text)}, 0.5) == "|" + text + " / |" + text);
  CHECK(message_of([&] {
          split({dir.write("e.txt", std::string(100, 'x'))}, 0.1);
        }).find("the validation split is empty") != std::string::npos);
}

TEST_CASE("data: the output does not depend on the number of threads, nor on pieces") {
  const TempDir dir;
  std::mt19937 random(5);
  // Documents of every size, and one larger than a piece.
  const std::string book = read_file(kSource / "data/text/austen.txt");
  std::string lines;
  for (int i = 0; i < 40; ++i) {
    const std::string part = book.substr(random() % (book.size() / 2), random() % 20000);
    lines += nlohmann::json{{"text", part}, {"source", std::to_string(i % 3)}}.dump(
                 -1, ' ', true, nlohmann::json::error_handler_t::replace) +
             "\n";
  }
  const BpeTokenizer gpt2 =
      BpeTokenizer::from_files(kSource / "data/gpt2/vocab.bpe", kSource / "data/gpt2/encoder.json");
  TokenizeOptions options;
  options.inputs = {dir.write("a.jsonl", lines), dir.write("b.txt", book)};
  options.tokens_per_shard = 100'000;
  std::vector<std::string> outputs;
  for (const int threads : {1, 3}) {
    options.threads = threads;
    options.output = dir / std::to_string(threads);
    const Dataset dataset = tokenize_files(gpt2, options);
    outputs.push_back(every_file(options.output));

    std::vector<std::int32_t> whole{gpt2.end_of_text()};
    gpt2.encode_append(book, whole);
    const std::vector<std::int32_t> train = tokens_of(options.output, dataset.train);
    REQUIRE(train.size() > whole.size());
    CHECK(std::equal(whole.rbegin(), whole.rend(), train.rbegin()));
  }
  CHECK(outputs[0] == outputs[1]);
}

TEST_CASE("data: a text that never pauses is cut between characters, and whole again") {
  const TempDir dir;
  const BpeTokenizer gpt2 = load_gpt2();
  std::string solid = "x";
  while (solid.size() < (std::size_t{4} << 20) + 1000) solid += "\xC3\xA9";
  TokenizeOptions options;
  options.inputs = {dir.write("a.txt", solid)};
  options.output = dir / "out";
  const std::vector<std::int32_t> tokens =
      tokens_of(options.output, tokenize_files(gpt2, options).train);
  CHECK(gpt2.decode(tokens) == "<|endoftext|>" + solid);
  // "x", then only whole characters and pairs of them.
  const auto odd = [&](std::int32_t id) { return gpt2.token_bytes(id).size() % 2 != 0; };
  CHECK(std::count_if(tokens.begin() + 1, tokens.end(), odd) == 1);
}

TEST_CASE("data: what tokenize cannot do it refuses, and leaves nothing behind") {
  const TempDir dir;
  TokenizeOptions good;
  good.inputs = {dir.write("a.txt", "text\n")};
  good.output = dir / "out";
  const auto error = [&](auto&& change) {
    TokenizeOptions options = good;
    change(options);
    return message_of([&] { tokenize_files(kBytes, options); });
  };
  CHECK(error([](auto& o) { o.inputs.clear(); }) == "tokenize: got no input file");
  CHECK(error([](auto& o) { o.threads = 0; }).find("got 0 threads") != std::string::npos);
  CHECK(error([](auto& o) { o.val_fraction = 1.0; }).find("fraction of 1") != std::string::npos);
  CHECK(error([](auto& o) {
          o.val_fraction = 0.5;
          o.val_inputs = o.inputs;
        }).find("expected one of them") != std::string::npos);
  CHECK(error([](auto& o) { o.tokens_per_shard = 0; }).find("0 tokens a shard") !=
        std::string::npos);
  CHECK(error([&](auto& o) { o.inputs.push_back(dir / "none.txt"); }).find("none.txt") !=
        std::string::npos);
  CHECK(error([&](auto& o) { o.output = dir.write("file", ""); }).find("is a file") !=
        std::string::npos);
  CHECK(error([&](auto& o) {
          o.inputs.push_back(dir.write("b.jsonl", "{}"));
        }).find("b.jsonl line 1") != std::string::npos);
  // Shards were in place already when the bad line came.
  CHECK(error([&](auto& o) {
          o.tokens_per_shard = 1;
          o.inputs = {dir.write("big.txt", std::string(std::size_t{3} << 10, 'a')),
                      dir.write("c.jsonl", "no")};
        }).find("c.jsonl line 1") != std::string::npos);
  CHECK(!fs::exists(good.output));

  CHECK(error([](auto&) {}) == "");
  const std::string before = every_file(good.output);
  CHECK(error([](auto&) {}).find("is not empty; hint") != std::string::npos);
  CHECK(every_file(good.output) == before);
}

TEST_CASE("data: a folder without a whole dataset says so") {
  const TempDir dir;
  const auto error = [&] { return message_of([&] { read_dataset(dir / ""); }); };
  CHECK(error().find("dataset.json is missing") != std::string::npos);
  dir.write("dataset.json", "{\"format\": \"nib");
  CHECK(error().find("not JSON, or cut off") != std::string::npos);
  dir.write("dataset.json", "[1]");
  CHECK(error().find("does not describe a dataset") != std::string::npos);
  dir.write("dataset.json", R"({"format": "nibble-dataset", "version": 2})");
  CHECK(error().find("got version 2 expected 1") != std::string::npos);
  dir.write("dataset.json", R"({"format": "nibble-dataset", "version": 1})");
  CHECK(error().find("'tokenizer' not found") != std::string::npos);

  // What is there must make sense: names of its own folder, whole numbers, ascending ranges.
  const auto described = [&](const char* shard, const char* tokens, const char* ranges) {
    dir.write("dataset.json",
              fmt::format(R"({{"format":"nibble-dataset","version":1,"tokenizer":{{"name":"byte",)"
                          R"("vocab_size":257,"xxh64":"0"}},"train":{{"shards":[],"tokens":0,)"
                          R"("documents":0,"text_bytes":0,"xxh64":"0"}},"val":{{"shards":["{}"],)"
                          R"("tokens":{},"documents":1,"text_bytes":9,"xxh64":"0","strata":[{{)"
                          R"("source":"s","documents":1,"text_bytes":9,"ranges":{}}}]}}}})",
                          shard, tokens, ranges));
    return error();
  };
  const auto says = [](const std::string& text, const char* part) {
    return text.find(part) != std::string::npos;
  };
  CHECK(described("val_000000.bin", "20", "[[0,9],[12,20]]").empty());
  for (const char* shard : {"../val_000000.bin", "/dev/zero", "..", "."})
    CHECK(says(described(shard, "20", "[[0,9]]"), "expected the name of a file beside it"));
  for (const char* tokens : {"1e300", "-1", "2.5", "9223372036854775808", "\"9\"", "null"})
    CHECK(says(described("v", tokens, "[[0,9]]"), "tokens: got"));
  CHECK(says(described("v", "20", "[[9,3]]"), "got 9 to 3 expected them within the 20 tokens"));
  CHECK(says(described("v", "20", "[[0,21]]"), "got 0 to 21 expected them within the 20 tokens"));
  CHECK(says(described("v", "20", "[[0,9],[8,12]]"), "got 8 after 9 expected them ascending"));
  CHECK(says(described("v", "20", "[[0]]"), "dataset.json: "));

  TokenizeOptions options;
  options.inputs = {dir.write("a.txt", "text\n")};
  options.output = dir / "out";
  tokenize_files(kBytes, options);
  std::string description = read_file(dir / "out/dataset.json");
  const std::size_t at = description.find("\"xxh64\": \"") + 10;
  description[at] = description[at] == '0' ? '1' : '0';
  dir.write("out/dataset.json", description);
  const auto tokenizer_error = message_of([&] { read_dataset_tokenizer(dir / "out"); });
  CHECK(tokenizer_error.find("with which the dataset was made") != std::string::npos);
}
