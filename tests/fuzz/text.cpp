// JSON lines and plain text, also compressed: the first byte says which.
#include "data/text_reader.h"
#include "tests/fuzz/target.h"

using namespace nibble;

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  constexpr const char* kNames[] = {"x.jsonl", "x.txt", "x.jsonl.gz", "x.jsonl.xz"};
  if (size == 0) return 0;
  return fuzz::run([&] {
    const auto path = fuzz::file_of(fuzz::text(data + 1, size - 1), kNames[data[0] % 4]);
    const auto reader = open_text(path);
    TextPiece piece;
    std::size_t bytes = 0;
    while (reader->next(piece) && bytes < (std::size_t{64} << 20)) bytes += piece.text.size();
  });
}
