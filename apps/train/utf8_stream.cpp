#include "apps/train/utf8_stream.h"

#include "data/utf8.h"

namespace nibble::train {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// Whether more bytes could still make a character of `tail`. The first bytes that may follow a lead
// all begin at 80, 90 or A0, so these endings stand for all others.
bool may_become_valid(std::string_view tail) {
  for (const std::string_view ending : {"\x80\x80\x80", "\x90\x80\x80", "\xA0\x80\x80"}) {
    for (std::size_t count = 1; count <= ending.size(); ++count) {
      const std::string whole = std::string(tail).append(ending.substr(0, count));
      if (valid_utf8_prefix(whole) == whole.size()) return true;
    }
  }
  return false;
}

}  // namespace

std::string Utf8Stream::push(std::string_view bytes) {
  pending_ += bytes;
  std::string out;
  std::string_view rest = pending_;
  while (!rest.empty()) {
    const std::size_t valid = valid_utf8_prefix(rest);
    out += rest.substr(0, valid);
    rest.remove_prefix(valid);
    if (rest.empty() || may_become_valid(rest)) break;
    out += kReplacement;
    rest.remove_prefix(1);
  }
  pending_ = std::string(rest);
  return out;
}

std::string Utf8Stream::finish() {
  const std::string out(pending_.empty() ? std::string_view() : kReplacement);
  pending_.clear();
  return out;
}

}  // namespace nibble::train
