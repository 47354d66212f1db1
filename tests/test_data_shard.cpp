#include <doctest/doctest.h>

#include <array>
#include <cstring>
#include <numeric>

#include "data/shard.h"
#include "data/token_stream.h"
#include "temp_dir.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::TempDir;

namespace {

std::vector<std::int32_t> count_to(std::int32_t n, std::int32_t step = 1) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(n));
  for (std::int32_t i = 0; i < n; ++i) tokens[static_cast<std::size_t>(i)] = i * step;
  return tokens;
}

std::vector<std::filesystem::path> write_shards(const TempDir& dir, TokenWidth width,
                                                std::span<const std::int32_t> tokens,
                                                std::int64_t per_shard) {
  ShardWriter writer(dir / "", "train", width, per_shard);
  writer.write(tokens);
  writer.finish();
  CHECK(writer.tokens() == static_cast<std::int64_t>(tokens.size()));
  std::vector<std::filesystem::path> paths;
  for (const std::string& name : writer.names()) paths.push_back(dir / name);
  return paths;
}

std::string bytes_of_header(std::int32_t magic, std::int32_t version, std::int32_t count) {
  std::array<std::int32_t, 256> header{magic, version, count};
  return {reinterpret_cast<const char*>(header.data()), sizeof(header)};
}

}  // namespace

TEST_CASE("data: a shard is llm.c's format to the byte") {
  const TempDir dir;
  const std::vector<std::int32_t> tokens{50256, 1, 513, 65535};
  const auto narrow = write_shards(dir, TokenWidth::U16, tokens, 100);
  CHECK(test::read_file(narrow.at(0)) ==
        bytes_of_header(20240520, 1, 4) + std::string("\x50\xC4\x01\x00\x01\x02\xFF\xFF", 8));

  const std::vector<std::int32_t> wide_tokens{128000, 1};
  const auto wide = write_shards(dir, TokenWidth::U32, wide_tokens, 100);
  CHECK(test::read_file(wide.at(0)) ==
        bytes_of_header(20240801, 7, 2) + std::string("\x00\xF4\x01\x00\x01\x00\x00\x00", 8));
  CHECK(token_width_for(65536) == TokenWidth::U16);
  CHECK(token_width_for(65537) == TokenWidth::U32);
}

TEST_CASE("data: shards split at their size and read back as one stream") {
  const TempDir dir;
  for (const TokenWidth width : {TokenWidth::U16, TokenWidth::U32}) {
    const std::vector<std::int32_t> tokens = count_to(1000, 65);
    const auto paths = write_shards(dir, width, tokens, 300);
    REQUIRE(paths.size() == 4);
    CHECK(paths[3].filename() == "train_000003.bin");
    CHECK(Shard(paths[3]).size() == 100);
    CHECK(Shard(paths[0]).width() == width);

    const TokenStream stream(paths, 65536);
    REQUIRE(stream.size() == 1000);
    for (const auto& [begin, count] :
         {std::pair{0, 1000}, {299, 2}, {250, 700}, {300, 300}, {1000, 0}}) {
      std::vector<std::int32_t> got(static_cast<std::size_t>(count));
      stream.read(begin, got);
      CHECK(std::equal(got.begin(), got.end(), tokens.begin() + begin));
    }
    std::vector<std::int32_t> two(2);
    CHECK(message_of([&] { stream.read(999, two); }).find("got tokens 999 to 1001") !=
          std::string::npos);
  }
}

TEST_CASE("data: the content hash does not depend on the shards' size") {
  const TempDir dir;
  const std::vector<std::int32_t> tokens = count_to(1000);
  const auto hash = [&](std::int64_t per_shard, std::size_t first) {
    ShardWriter writer(dir / "", "train", TokenWidth::U16, per_shard);
    writer.write(std::span(tokens).first(first));
    writer.write(std::span(tokens).subspan(first));
    writer.finish();
    return writer.content_hash();
  };
  CHECK(hash(1000, 0) == hash(7, 333));
  ShardWriter other(dir / "", "val", TokenWidth::U16, 10);
  CHECK(other.content_hash() != hash(1000, 0));
}

TEST_CASE("data: an unfinished shard leaves no file") {
  const TempDir dir;
  {
    ShardWriter writer(dir / "", "train", TokenWidth::U16, 10);
    writer.write(count_to(15));
    CHECK(writer.names().size() == 1);
  }
  std::size_t files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(dir / "")) ++files;
  CHECK(files == 1);
}

TEST_CASE("data: shards that are empty, cut off or foreign say what is wrong") {
  const TempDir dir;
  const auto error = [&](std::string_view bytes) {
    const auto path = dir.write("s.bin", bytes);
    std::string message = message_of([&] { Shard shard(path); });
    const std::size_t at = message.find("s.bin");
    return at == std::string::npos ? message : message.substr(at);
  };
  const std::string good = bytes_of_header(20240520, 1, 3) + std::string("aabbcc");
  CHECK(error(good) == "");
  CHECK(error("") == "s.bin is empty");
  CHECK(error("#!").starts_with("s.bin is not a token file: got magic 0 expected 20240520"));
  CHECK(error("This is some text, and no tokens")
            .starts_with("s.bin is not a token file: got magic"));
  CHECK(error(good.substr(0, 500)) == "s.bin is cut off: got 500 bytes expected a header of 1024");
  CHECK(error(good.substr(0, 1028)) ==
        "s.bin is cut off: the header declares 3 tokens: got 1028 bytes expected 1030");
  CHECK(error(good + "x") ==
        "s.bin is longer than it says: the header declares 3 tokens: got 1031 bytes expected 1030");
  CHECK(error(bytes_of_header(20240520, 2, 3) + "aabbcc") == "s.bin: got version 2 expected 1");
  CHECK(error(bytes_of_header(20240801, 1, 1) + "aaaa") == "s.bin: got version 1 expected 7");
  CHECK(error(bytes_of_header(20240520, 1, 0)).find("declares 0 tokens") != std::string::npos);
  CHECK(error(bytes_of_header(20240520, 1, -5)).find("declares -5 tokens") != std::string::npos);
  CHECK(message_of([&] { Shard shard(dir / "none.bin"); }).find("none.bin: No such file") !=
        std::string::npos);
  CHECK(message_of([&] { Shard shard(dir / ""); }).find("not a regular file") != std::string::npos);
  CHECK(message_of([] { TokenStream stream({}, 10); }).find("the split is empty") !=
        std::string::npos);
}

TEST_CASE("data: a token outside the vocabulary is named with its file and place") {
  const TempDir dir;
  std::vector<std::int32_t> tokens(100, 7);
  tokens[64] = 300;
  const auto paths = write_shards(dir, TokenWidth::U16, tokens, 50);
  const TokenStream stream(paths, 257);
  std::vector<std::int32_t> got(100);
  stream.read(0, std::span(got).first(64));
  CHECK(message_of([&] { stream.read(0, got); })
            .ends_with("train_000001.bin: got token 300 at offset 14 expected less than the "
                       "vocabulary's 257"));

  const std::vector<std::int32_t> negative{-1};
  const TokenStream wide(write_shards(dir, TokenWidth::U32, negative, 50), 257);
  CHECK(message_of([&] { wide.read(0, std::span(got).first(1)); }).find("got token 4294967295") !=
        std::string::npos);
}
