#include <doctest/doctest.h>

#include <limits>
#include <nlohmann/json.hpp>

#include "data/import_shards.h"
#include "data/token_stream.h"
#include "temp_dir.h"
#include "tensor/check.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::TempDir;

namespace {

namespace fs = std::filesystem;
const ByteTokenizer kBytes;

std::string bare(const std::vector<std::uint16_t>& tokens) {
  return {reinterpret_cast<const char*>(tokens.data()), tokens.size() * sizeof(std::uint16_t)};
}

TokenizeOptions import_options(const TempDir& dir, std::vector<fs::path> inputs,
                               std::vector<fs::path> val_inputs = {}) {
  TokenizeOptions options;
  options.inputs = std::move(inputs);
  options.val_inputs = std::move(val_inputs);
  options.output = dir / "out";
  return options;
}

std::vector<std::int32_t> tokens_of(const fs::path& folder, const Split& split) {
  const TokenStream stream(shard_paths(folder, split), 1 << 30);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(stream.size()));
  stream.read(0, tokens);
  return tokens;
}

}  // namespace

TEST_CASE("data: nanoGPT's files become a dataset") {
  const TempDir dir;
  auto options = import_options(dir,
                                {dir.write("train.bin", bare({'h', 'i', 256, 'x', 256, 256})),
                                 dir.write("more.bin", bare({'y'}))},
                                {dir.write("val.bin", bare({256, 'a', 'b'}))});
  options.tokens_per_shard = 4;
  std::int64_t seen = 0;
  options.progress = [&](const TokenizeProgress& progress) { seen = progress.tokens; };
  const Dataset dataset = import_shards(kBytes, ShardForm::NanoGpt, options);
  CHECK(tokens_of(options.output, dataset.train) ==
        std::vector<std::int32_t>{'h', 'i', 256, 'x', 256, 256, 'y'});
  CHECK(dataset.train.shards.size() == 2);
  CHECK(dataset.train.documents == 3);
  CHECK(dataset.train.text_bytes == 3);  // the first token is not predicted
  CHECK(tokens_of(options.output, dataset.val) == std::vector<std::int32_t>{256, 'a', 'b'});
  CHECK(dataset.val.documents == 1);
  CHECK(dataset.val.text_bytes == 2);
  CHECK(seen == 10);
  CHECK(content_hash(read_dataset(options.output)) == content_hash(dataset));
  CHECK(read_dataset_tokenizer(options.output)->name() == "byte");
}

TEST_CASE("data: llm.c's shards become the dataset that they were") {
  const TempDir dir;
  TokenizeOptions text;
  text.inputs = {dir.write("a.jsonl", "{\"text\":\"first\"}\n{\"text\":\"second\"}")};
  text.val_inputs = {dir.write("v.txt", "third")};
  text.output = dir / "made";
  text.tokens_per_shard = 5;
  const Dataset made = tokenize_files(kBytes, text);
  const auto options =
      import_options(dir, shard_paths(text.output, made.train), shard_paths(text.output, made.val));
  const Dataset again = import_shards(kBytes, ShardForm::LlmC, options);
  CHECK(content_hash(again) == content_hash(made));
  CHECK(again.train.documents == made.train.documents);
  CHECK(again.train.text_bytes == made.train.text_bytes);
  CHECK(again.val.text_bytes == made.val.text_bytes);
}

TEST_CASE("data: 32-bit shards are imported") {
  const TempDir dir;
  const UnknownTokenizer many(100000);
  fs::create_directory(dir / "wide");
  ShardWriter writer(dir / "wide", "train", token_width_for(many.vocab_size()), 100);
  writer.write(std::vector<std::int32_t>{70000, 3, 99999});
  writer.finish();
  const auto options = import_options(dir, {dir / "wide/train_000000.bin"});
  const Dataset dataset = import_shards(many, ShardForm::LlmC, options);
  CHECK(tokens_of(options.output, dataset.train) == std::vector<std::int32_t>{70000, 3, 99999});
}

TEST_CASE("data: tokens of an unknown tokenizer can be trained on, but have no text") {
  const TempDir dir;
  const UnknownTokenizer unknown(65);
  const auto options = import_options(dir, {dir.write("train.bin", bare({0, 64, 3}))});
  const Dataset dataset = import_shards(unknown, ShardForm::NanoGpt, options);
  CHECK(dataset.vocab_size == 65);
  CHECK(dataset.train.text_bytes == 0);
  CHECK(dataset.train.documents == 1);
  const auto read = read_dataset_tokenizer(options.output);
  CHECK(read->vocab_size() == 65);
  CHECK(fingerprint(*read) == fingerprint(unknown));
  for (const std::string& message :
       {message_of([&] { read->encode(""); }), message_of([&] { (void)read->token_bytes(3); })}) {
    CHECK(message.find("imported without their tokenizer") != std::string::npos);
  }
  for (const auto& size :
       std::initializer_list<nlohmann::json>{0, -1, "65", 1.5, std::int64_t{1} << 31, nullptr}) {
    CHECK(message_of([&] {
            make_tokenizer({{"type", "unknown"}, {"vocab_size", size}});
          }).find("expected a \"vocab_size\" of 1 to") != std::string::npos);
  }
  CHECK_THROWS_AS(UnknownTokenizer(0), Error);
}

TEST_CASE("data: token files that are not what they should be are refused") {
  const TempDir dir;
  const auto message = [&](ShardForm form, std::string_view bytes) {
    const auto options = import_options(dir, {dir.write("train.bin", bytes)});
    const std::string got = message_of([&] { import_shards(kBytes, form, options); });
    CHECK(!fs::exists(options.output));
    CHECK(got.find("train.bin") != std::string::npos);
    return got;
  };
  const std::string good = bare({1, 2, 3});
  CHECK(message(ShardForm::NanoGpt, "").find("is empty") != std::string::npos);
  CHECK(
      message(ShardForm::NanoGpt, good.substr(0, 5)).find("got 5 bytes expected an even number") !=
      std::string::npos);
  CHECK(message(ShardForm::NanoGpt, bare({1, 2, 257, 4}))
            .find("got token 257 at offset 2 expected less than the vocabulary's 257") !=
        std::string::npos);
  CHECK(message(ShardForm::LlmC, good).find("is not a token file: got magic") != std::string::npos);
  CHECK(message(ShardForm::LlmC, "").find("is empty") != std::string::npos);

  fs::create_directory(dir / "made");
  ShardWriter writer(dir / "made", "train", TokenWidth::U32, 10);
  writer.write(std::vector<std::int32_t>{1, std::numeric_limits<std::int32_t>::min()});
  writer.finish();
  const std::string shard = test::read_file(dir / "made/train_000000.bin");
  CHECK(message(ShardForm::NanoGpt, shard).find("hint: import it as llm.c") != std::string::npos);
  CHECK(message(ShardForm::LlmC, shard).find("got token 2147483648 at offset 1") !=
        std::string::npos);
  CHECK(message(ShardForm::LlmC, shard.substr(0, 1030)).find("cut off") != std::string::npos);

  CHECK(message_of([&] { import_shards(kBytes, ShardForm::LlmC, import_options(dir, {})); }) ==
        "data: got no token file");
  CHECK(message_of([&] {
          import_shards(kBytes, ShardForm::NanoGpt, import_options(dir, {dir / "nowhere.bin"}));
        }).find("nowhere.bin") != std::string::npos);
}
