// Bytes in, valid UTF-8 out, as soon as it can be known.
#pragma once

#include <string>
#include <string_view>

namespace nibble::train {

class Utf8Stream {
 public:
  // What can be shown now: a character that is not complete yet waits; bytes that cannot become one
  // are replaced by U+FFFD.
  std::string push(std::string_view bytes);
  // What is left at the end.
  std::string finish();

 private:
  std::string pending_;
};

}  // namespace nibble::train
