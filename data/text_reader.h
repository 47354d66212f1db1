// Documents from text files, in pieces of bounded size.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

namespace nibble {

struct TextPiece {
  std::string text;              // may be empty, may end inside a character
  std::string source;            // the document's stratum; "" when it names none
  bool begins_document = false;  // pieces up to the next such one belong together
  bool divisible = false;        // the document may be shared between two splits, at a line's end
};

class TextReader {
 public:
  virtual ~TextReader() = default;
  // Overwrites `piece` with the next one; false at the end.
  virtual bool next(TextPiece& piece) = 0;
};

// .txt: one document, byte for byte (invalid UTF-8 too), in pieces of up to 1 MiB.
// .jsonl: one document a line, {"text": …, "source": …}, the stratum optional; blank lines are
// skipped. Either also as .gz or .xz. Throws Error("data"), now or in next(), naming the file (and
// the line): missing, another kind, empty, cut off, damaged, not JSON, without text, a line over
// 256 MiB.
std::unique_ptr<TextReader> open_text(const std::filesystem::path& path);

}  // namespace nibble
