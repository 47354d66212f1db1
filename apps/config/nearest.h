// "Did you mean": the nearest of the words that would have been right.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::config {

// Damerau-Levenshtein distance (optimal string alignment): the insertions, deletions, substitutions
// and swaps of neighbours that turn `a` into `b`, no part edited twice.
std::size_t edit_distance(std::string_view a, std::string_view b);

// The word of `known` with the least distance from `word`, the first of equals; empty when none is
// known.
std::string nearest(std::string_view word, const std::vector<std::string>& known);
// The `count` nearest, nearest first: "a, b, c".
std::string nearest_few(std::string_view word, const std::vector<std::string>& known,
                        std::size_t count = 3);

}  // namespace nibble::config
