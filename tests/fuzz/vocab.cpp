// GPT-2's two files: vocab.json up to the first zero byte, merges.txt behind it. The first byte
// says whether the 256 bytes and <|endoftext|> are put in front of a plain list of tokens, which
// few mutations of a whole vocab.json would keep.
#include <nlohmann/json.hpp>

#include "data/bpe_tokenizer.h"
#include "data/byte_spelling.h"
#include "data/utf8.h"
#include "tests/fuzz/target.h"

using namespace nibble;

namespace {

std::string vocabulary_of(std::string_view lines) {
  nlohmann::json vocab = {{"<|endoftext|>", 256}};
  for (unsigned b = 0; b < 256; ++b) vocab[byte_spelling().of(static_cast<unsigned char>(b))] = b;
  while (!lines.empty()) {
    const std::size_t end = std::min(lines.find('\n'), lines.size());
    const std::string token(lines.substr(0, end));
    if (valid_utf8_prefix(token) == token.size()) vocab.emplace(token, vocab.size());
    lines.remove_prefix(std::min(end + 1, lines.size()));
  }
  return vocab.dump();
}

}  // namespace

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size == 0) return 0;
  const std::string_view bytes = fuzz::text(data + 1, size - 1);
  const std::size_t cut = std::min(bytes.find('\0'), bytes.size());
  const std::string_view merges = bytes.substr(std::min(cut + 1, bytes.size()));
  const std::string vocab =
      data[0] % 2 ? vocabulary_of(bytes.substr(0, cut)) : std::string(bytes.substr(0, cut));
  return fuzz::run([&] {
    const auto merges_file = fuzz::file_of(merges, "merges.txt");
    const auto vocab_file = merges_file.parent_path() / "vocab.json";
    std::ofstream(vocab_file, std::ios::binary) << vocab;
    const BpeTokenizer tokenizer = BpeTokenizer::from_files(merges_file, vocab_file);
    const std::string text = std::string(bytes.substr(0, 4096)) + " It's 12 \xff<|endoftext|>\n";
    if (tokenizer.decode(tokenizer.encode(text)) != text) std::abort();
    // What was read writes back to the same.
    const auto folder = merges_file.parent_path() / "out";
    tokenizer.write_files(folder);
    const BpeTokenizer again =
        BpeTokenizer::from_files(folder / kVocabBpeFile, folder / kEncoderFile);
    if (fingerprint(again) != fingerprint(tokenizer)) std::abort();
  });
}
