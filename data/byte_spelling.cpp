#include "data/byte_spelling.h"

#include <algorithm>

namespace nibble {
namespace {

constexpr bool printable(unsigned byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

}  // namespace

ByteSpelling::ByteSpelling() {
  unsigned next = 0x100;
  for (unsigned b = 0; b < 256; ++b) {
    const unsigned code = printable(b) ? b : next++;
    std::string& spelling = spellings_[b];
    if (code < 0x80) {
      spelling.push_back(static_cast<char>(code));
    } else {
      spelling.push_back(static_cast<char>(0xC0 | code >> 6));
      spelling.push_back(static_cast<char>(0x80 | (code & 0x3F)));
    }
    byte_of_.emplace(spelling, static_cast<unsigned char>(b));
  }
}

std::string ByteSpelling::spell(std::string_view bytes) const {
  std::string token;
  for (const char c : bytes) token += of(static_cast<unsigned char>(c));
  return token;
}

std::string ByteSpelling::unspell(std::string_view token) const {
  std::string bytes;
  while (!token.empty()) {
    const std::size_t length = static_cast<unsigned char>(token[0]) < 0x80 ? 1 : 2;
    const auto found = byte_of_.find(token.substr(0, length));
    if (found == byte_of_.end()) return {};
    bytes += static_cast<char>(found->second);
    token.remove_prefix(std::min(length, token.size()));
  }
  return bytes;
}

const ByteSpelling& byte_spelling() {
  static const ByteSpelling spelling;
  return spelling;
}

std::array<unsigned char, 256> gpt2_byte_order() {
  std::array<unsigned char, 256> order;
  auto* out = order.data();
  for (const bool wanted : {true, false}) {
    for (unsigned b = 0; b < 256; ++b) {
      if (printable(b) == wanted) *out++ = static_cast<unsigned char>(b);
    }
  }
  return order;
}

}  // namespace nibble
