// What a field's value must satisfy beyond its type, and how values are shown in errors.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>

#include "apps/config/json.h"
#include "tensor/check.h"

namespace nibble::config {

// "an object", "a string", … for messages.
std::string_view kind_of(const Json& value);
// The value as JSON, shortened to fit a line; never throws on invalid UTF-8.
std::string shown(const Json& value);
bool is_utf8(std::string_view text);

// config: <path>: got <value> expected <what>
[[noreturn]] void wrong_value(const std::string& path, const Json& value,
                              std::string_view expected);

// Bounds of a number; NaN satisfies none.
template <class B>
struct Range {
  std::optional<B> low, high;
  bool low_open = false;
  bool high_open = false;

  template <class T>
  bool holds(const T& value) const {
    const bool above =
        !low || (low_open ? value > static_cast<T>(*low) : value >= static_cast<T>(*low));
    const bool below =
        !high || (high_open ? value < static_cast<T>(*high) : value <= static_cast<T>(*high));
    return above && below;
  }
  std::string text() const {
    std::string result;
    if (low) result = fmt::format("{} {}", low_open ? "above" : "at least", *low);
    if (low && high) result += " and ";
    if (high) result += fmt::format("{} {}", high_open ? "below" : "at most", *high);
    return result;
  }
};

template <class B>
Range<B> at_least(B low) {
  return {.low = low, .high = {}};
}
template <class B>
Range<B> at_most(B high) {
  return {.low = {}, .high = high};
}
template <class B>
Range<B> above(B low) {
  return {.low = low, .high = {}, .low_open = true};
}
// low <= value <= high
template <class B>
Range<B> between(B low, B high) {
  return {.low = low, .high = high};
}
// low <= value < high, e.g. Adam's betas
template <class B>
Range<B> half_open(B low, B high) {
  return {.low = low, .high = high, .high_open = true};
}

struct NotEmpty {
  template <class T>
  bool holds(const T& value) const {
    return !value.empty();
  }
  std::string text() const { return "something not empty"; }
};
inline NotEmpty not_empty() { return {}; }

}  // namespace nibble::config
