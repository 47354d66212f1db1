// Small helpers for the text forms.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble::words {

std::vector<std::string_view> split(std::string_view text, char separator);

// "; did you mean 'int8'?" with the known word that takes the fewest single-character edits, or ""
// when none is nearer than half the word's length.
std::string suggestion(std::string_view word, const std::vector<std::string>& known);

// Whether every character is a letter, a digit or one of `others`, and there is at least one.
bool is_plain(std::string_view text, std::string_view others);

// `*` matches any run of characters, `?` any one.
bool matches(std::string_view pattern, std::string_view text);

}  // namespace nibble::words
