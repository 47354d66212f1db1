// Just enough UTF-8: where it is valid.
#pragma once

#include <cstddef>
#include <string_view>

namespace nibble {

// Length in bytes of the longest prefix of `text` that is well-formed UTF-8 (Unicode 15, table 3-7:
// no overlong forms, no surrogates, nothing above U+10FFFF).
std::size_t valid_utf8_prefix(std::string_view text);

// Length of the run of bytes at the start of `text` that no well-formed sequence starts at.
std::size_t invalid_utf8_prefix(std::string_view text);

}  // namespace nibble
