#include <doctest/doctest.h>
#include <lzma.h>
#include <zlib.h>

#include <string>
#include <vector>

#include "data/text_reader.h"
#include "temp_dir.h"

using namespace nibble;
using nibble::test::message_of;
using nibble::test::TempDir;

namespace {

std::string gzip(std::string_view text) {
  z_stream stream{};
  REQUIRE(deflateInit2(&stream, 6, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY) == Z_OK);
  std::string out(deflateBound(&stream, text.size()) + 64, '\0');
  stream.next_in = reinterpret_cast<Bytef*>(const_cast<char*>(text.data()));
  stream.avail_in = static_cast<uInt>(text.size());
  stream.next_out = reinterpret_cast<Bytef*>(out.data());
  stream.avail_out = static_cast<uInt>(out.size());
  REQUIRE(deflate(&stream, Z_FINISH) == Z_STREAM_END);
  out.resize(stream.total_out);
  deflateEnd(&stream);
  return out;
}

std::string xz(std::string_view text) {
  std::string out(lzma_stream_buffer_bound(text.size()), '\0');
  std::size_t size = 0;
  REQUIRE(lzma_easy_buffer_encode(1, LZMA_CHECK_CRC64, nullptr,
                                  reinterpret_cast<const std::uint8_t*>(text.data()), text.size(),
                                  reinterpret_cast<std::uint8_t*>(out.data()), &size,
                                  out.size()) == LZMA_OK);
  out.resize(size);
  return out;
}

struct Document {
  std::string text, source;
  bool operator==(const Document&) const = default;
};

std::vector<Document> read_all(const std::filesystem::path& path) {
  std::vector<Document> documents;
  const auto reader = open_text(path);
  TextPiece piece;
  while (reader->next(piece)) {
    CHECK(piece.begins_document == (documents.empty() || piece.divisible == false));
    if (piece.begins_document) documents.push_back({"", piece.source});
    documents.back().text += piece.text;
  }
  return documents;
}

std::string error_of(const std::filesystem::path& path) {
  return message_of([&] { read_all(path); });
}

bool contains(const std::string& text, std::string_view part) {
  CAPTURE(text);
  return text.find(part) != std::string::npos;
}

const std::string kLines =
    "{\"text\": \"one\\n\", \"source\": \"a\"}\n\n{\"text\": \"\"}\r\n{\"source\": null, \"text\": "
    "\"zw\\u00f6lf\"}";

}  // namespace

TEST_CASE("data: text files come back byte for byte, compressed or not") {
  const TempDir dir;
  std::string text = "invalid \xFF\xC0 bytes\r\n";
  text.resize((3 << 20) + 17, 'x');
  text[1 << 20] = '\0';
  const std::vector<Document> expected{{text, ""}};
  CHECK(read_all(dir.write("a.txt", text)) == expected);
  CHECK(read_all(dir.write("a.txt.gz", gzip(text))) == expected);
  CHECK(read_all(dir.write("a.txt.xz", xz(text))) == expected);
  // Members one after the other, as `cat a.gz b.gz` makes them.
  CHECK(read_all(dir.write("b.txt.gz", gzip("one ") + gzip("two"))) ==
        std::vector<Document>{{"one two", ""}});
  CHECK(read_all(dir.write("b.txt.xz", xz("one ") + xz("two"))) ==
        std::vector<Document>{{"one two", ""}});
}

TEST_CASE("data: text comes in pieces of bounded size") {
  const TempDir dir;
  const auto reader = open_text(dir.write("a.txt.gz", gzip(std::string(5 << 20, 'a'))));
  TextPiece piece;
  std::size_t pieces = 0;
  while (reader->next(piece)) {
    CHECK(piece.text.size() <= std::size_t{1} << 20);
    ++pieces;
  }
  CHECK(pieces == 5);
}

TEST_CASE("data: one document a JSON line, with its stratum") {
  const TempDir dir;
  const std::vector<Document> expected{{"one\n", "a"}, {"", ""}, {"zw\xC3\xB6lf", ""}};
  CHECK(read_all(dir.write("a.jsonl", kLines)) == expected);
  CHECK(read_all(dir.write("b.jsonl", kLines + "\n")) == expected);
  CHECK(read_all(dir.write("a.jsonl.gz", gzip(kLines))) == expected);
  CHECK(read_all(dir.write("a.jsonl.xz", xz(kLines))) == expected);

  const std::string longest(3 << 20, 'y');
  CHECK(
      read_all(dir.write("long.jsonl", "{\"text\": \"" + longest + "\"}\n" + kLines)).at(0).text ==
      longest);
}

TEST_CASE("data: a bad JSON line is named by its number") {
  const TempDir dir;
  const auto error = [&](std::string_view line) {
    return error_of(dir.write("bad.jsonl", "{\"text\": \"fine\"}\n\n" + std::string(line) + "\n"));
  };
  CHECK(contains(error("{\"text\": \"cut"), "bad.jsonl line 3: not JSON at byte"));
  CHECK(contains(error("plain text"), "bad.jsonl line 3: not JSON at byte"));
  CHECK(contains(error("{\"text\": \"a\"} {}"), "bad.jsonl line 3: not JSON at byte"));
  CHECK(contains(error("{\"text\": \"\xFF\"}"), "bad.jsonl line 3: invalid UTF-8 at byte 11"));
  CHECK(contains(error("{\"text\": \"\\ud800\"}"), "bad.jsonl line 3: not JSON"));
  CHECK(contains(error("{\"body\": \"a\"}"), "bad.jsonl line 3: got no \"text\""));
  CHECK(contains(error("{\"text\": 7}"), "bad.jsonl line 3: got no \"text\""));
  CHECK(contains(error("[\"text\"]"), "bad.jsonl line 3: got no \"text\""));
  CHECK(contains(error("{\"text\": \"\", \"source\": 1}"), "line 3: got \"source\" as number"));
  CHECK(contains(error(std::string(1 << 20, '[')), "bad.jsonl line 3: not JSON"));
  CHECK(contains(error("{\"text\": \"a\", \"n\": 1e330}"),
                 "line 3: got a number beyond what a double"));
}

TEST_CASE("data: files without text are named") {
  const TempDir dir;
  CHECK(contains(error_of(dir / "none.txt"), "none.txt: No such file"));
  CHECK(contains(error_of(dir.write("a.txt", "")), "a.txt is empty"));
  CHECK(contains(error_of(dir.write("a.jsonl", "\n \n")), "a.jsonl is empty"));
  CHECK(
      contains(error_of(dir.write("a.csv", "x")), "unknown kind of file; expected .txt or .jsonl"));
  CHECK(contains(error_of(dir.write("a.gz", "x")), "unknown kind of file"));
  std::filesystem::create_directory(dir / "folder.txt");
  CHECK(contains(error_of(dir / "folder.txt"), "folder.txt is a folder"));
}

TEST_CASE("data: compressed files that are cut off, damaged or foreign are named") {
  const TempDir dir;
  std::string text;
  for (int i = 0; i < 5000; ++i) text += std::to_string(i * i);
  for (const std::string name : {"a.txt.gz", "a.txt.xz"}) {
    const std::string whole = name == "a.txt.gz" ? gzip(text) : xz(text);
    for (const std::size_t keep : {whole.size() - 1, whole.size() / 2, std::size_t{12}}) {
      CHECK(contains(error_of(dir.write(name, whole.substr(0, keep))), name + " is cut off"));
    }
    std::string damaged = whole;
    damaged[whole.size() / 2] = static_cast<char>(damaged[whole.size() / 2] ^ 0x55);
    CHECK(contains(error_of(dir.write(name, damaged)), "or damaged"));
    CHECK(contains(error_of(dir.write(name, whole + "trailing rubbish")), "or damaged"));
    CHECK(contains(error_of(dir.write(name, "this is plain text")), "or damaged"));
    CHECK(contains(error_of(dir.write(name, "")), name));
  }
}
