// JSON in files that others may have written. nlohmann-json parses any depth, but copies, compares
// and prints by recursion: a file of a million brackets would end the process.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace nibble {

inline constexpr int kMaxJsonNesting = 256;

// Whether brackets outside of strings nest deeper than `levels`. For text that is no JSON the
// answer means nothing, and the parser has the last word.
inline bool nests_deeper(std::string_view text, int levels) {
  int depth = 0;
  bool quoted = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else
        quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '[' || c == '{') {
      if (++depth > levels) return true;
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
  return false;
}

// The value, or a discarded one (is_discarded()) for what is no JSON or nests deeper than
// kMaxJsonNesting. `Json` is nlohmann::json or its ordered twin.
template <class Json>
Json parse_json(std::string_view text) {
  if (nests_deeper(text, kMaxJsonNesting)) return Json(Json::value_t::discarded);
  return Json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
}

namespace detail {
// A SAX reader of the keys of the outer object.
template <class Json>
struct OuterKeys {
  std::vector<std::string>& keys;
  int depth = 0;

  bool null() { return true; }
  bool boolean(bool) { return true; }
  bool number_integer(typename Json::number_integer_t) { return true; }
  bool number_unsigned(typename Json::number_unsigned_t) { return true; }
  bool number_float(typename Json::number_float_t, const std::string&) { return true; }
  bool string(std::string&) { return true; }
  bool binary(typename Json::binary_t&) { return true; }
  bool start_object(std::size_t) { return ++depth > 0; }
  bool end_object() { return depth-- > 0; }
  bool start_array(std::size_t) { return ++depth > 0; }
  bool end_array() { return depth-- > 0; }
  bool key(std::string& name) {
    if (depth == 1) keys.push_back(name);
    return true;
  }
  bool parse_error(std::size_t, const std::string&, const typename Json::exception&) {
    return false;
  }
};
}  // namespace detail

// As parse_json, with the keys of the outer object in the order in which they stand, those that
// occur twice included. Two passes: nlohmann's ordered object and its parser with a callback both
// take quadratic time, hours for a header of a million names.
template <class Json>
Json parse_json(std::string_view text, std::vector<std::string>& keys) {
  Json value = parse_json<Json>(text);
  if (value.is_discarded()) return value;
  detail::OuterKeys<Json> reader{keys};
  Json::sax_parse(text.begin(), text.end(), &reader);
  return value;
}

}  // namespace nibble
