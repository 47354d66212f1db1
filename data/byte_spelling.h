// GPT-2's spelling of bytes, in which tokens are written in vocabulary files.
#pragma once

#include <array>
#include <string>
#include <string_view>
#include <unordered_map>

namespace nibble {

// Every byte is one printable character: the character of its number where that is printable, the
// remaining 68 by U+0100 upwards (a space is "Ġ").
class ByteSpelling {
 public:
  ByteSpelling();

  const std::string& of(unsigned char byte) const { return spellings_[byte]; }
  std::string spell(std::string_view bytes) const;
  // The bytes of a token string, empty when it has a character that spells no byte.
  std::string unspell(std::string_view token) const;

 private:
  std::array<std::string, 256> spellings_;
  std::unordered_map<std::string_view, unsigned char> byte_of_;  // views into spellings_
};

// The one there is.
const ByteSpelling& byte_spelling();

// All bytes as GPT-2 numbers them: the printable ones first.
std::array<unsigned char, 256> gpt2_byte_order();

}  // namespace nibble
