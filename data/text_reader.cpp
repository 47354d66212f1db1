#include "data/text_reader.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>

#include "data/byte_source.h"
#include "data/utf8.h"
#include "tensor/check.h"

namespace nibble {
namespace {

constexpr const char* kOp = "data";
constexpr std::size_t kBlock = std::size_t{1} << 20;
constexpr std::size_t kMaxLine = std::size_t{256} << 20;

class PlainTextReader final : public TextReader {
 public:
  explicit PlainTextReader(const std::filesystem::path& path)
      : path_(path.string()), bytes_(open_bytes(path)) {}

  bool next(TextPiece& piece) override {
    piece.text.resize(kBlock);
    piece.text.resize(bytes_->read(piece.text.data(), kBlock));
    NIBBLE_CHECK(!first_ || !piece.text.empty(), kOp, "{} is empty", path_);
    piece.source.clear();
    piece.begins_document = std::exchange(first_, false);
    piece.divisible = true;
    return !piece.text.empty();
  }

 private:
  std::string path_;
  std::unique_ptr<ByteSource> bytes_;
  bool first_ = true;
};

class JsonLinesReader final : public TextReader {
 public:
  explicit JsonLinesReader(const std::filesystem::path& path)
      : path_(path.string()), bytes_(open_bytes(path)) {}

  bool next(TextPiece& piece) override {
    while (next_line()) {
      if (line_.find_first_not_of(" \t\r") == std::string::npos) continue;
      parse(piece);
      any_ = true;
      return true;
    }
    NIBBLE_CHECK(any_, kOp, "{} is empty: got no document", path_);
    return false;
  }

 private:
  // Into line_, without its newline; false at the end of the file.
  bool next_line() {
    line_.clear();
    ++number_;
    while (true) {
      if (at_ == block_.size()) {
        block_.resize(kBlock);
        block_.resize(bytes_->read(block_.data(), kBlock));
        at_ = 0;
        if (block_.empty()) return !line_.empty();
      }
      const std::size_t end = std::min(block_.find('\n', at_), block_.size());
      line_.append(block_, at_, end - at_);
      NIBBLE_CHECK(line_.size() <= kMaxLine, kOp, "{} line {}: longer than {} MiB", path_, number_,
                   kMaxLine >> 20);
      at_ = std::min(end + 1, block_.size());
      if (end < block_.size()) return true;
    }
  }

  void parse(TextPiece& piece) const {
    // Looked at first: the parser's own message would quote the bytes at fault.
    const std::size_t valid = valid_utf8_prefix(line_);
    NIBBLE_CHECK(valid == line_.size(), kOp, "{} line {}: invalid UTF-8 at byte {}", path_, number_,
                 valid + 1);
    nlohmann::json object;
    try {
      object = nlohmann::json::parse(line_);
    } catch (const nlohmann::json::parse_error& error) {
      fail(kOp, "{} line {}: not JSON at byte {}; expected one object a line", path_, number_,
           error.byte);
    } catch (const nlohmann::json::out_of_range&) {
      fail(kOp, "{} line {}: got a number beyond what a double holds, expected one object a line",
           path_, number_);
    }
    const auto text = object.is_object() ? object.find("text") : object.end();
    NIBBLE_CHECK(text != object.end() && text->is_string(), kOp,
                 "{} line {}: got no \"text\" expected an object with a string of that name", path_,
                 number_);
    piece.text = std::move(text->get_ref<std::string&>());
    piece.source.clear();
    if (const auto source = object.find("source"); source != object.end() && !source->is_null()) {
      NIBBLE_CHECK(source->is_string(), kOp, "{} line {}: got \"source\" as {} expected a string",
                   path_, number_, source->type_name());
      piece.source = std::move(source->get_ref<std::string&>());
    }
    piece.begins_document = true;
    piece.divisible = false;
  }

  std::string path_;
  std::unique_ptr<ByteSource> bytes_;
  std::string block_;
  std::size_t at_ = 0;
  std::string line_;
  std::size_t number_ = 0;
  bool any_ = false;
};

}  // namespace

std::unique_ptr<TextReader> open_text(const std::filesystem::path& path) {
  std::filesystem::path name = path.filename();
  if (name.extension() == ".gz" || name.extension() == ".xz") name = name.stem();
  if (name.extension() == ".txt") return std::make_unique<PlainTextReader>(path);
  if (name.extension() == ".jsonl") return std::make_unique<JsonLinesReader>(path);
  fail(kOp, "{}: unknown kind of file; expected .txt or .jsonl, or either with .gz or .xz",
       path.string());
}

}  // namespace nibble
