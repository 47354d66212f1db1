#include "apps/config/reader.h"

#include <algorithm>

#include "apps/config/nearest.h"

namespace nibble::config {

std::string_view kind_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return "a string";
    case Json::value_t::boolean: return "true or false";
    case Json::value_t::null: return "null";
    default: return "a number";
  }
}

std::string shown(const Json& value) {
  if (value.is_object()) return "an object";
  constexpr std::size_t kLongest = 60;
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  if (text.size() > kLongest) text = text.substr(0, kLongest) + "…";
  return text;
}

bool is_utf8(std::string_view text) {
  try {
    static_cast<void>(Json(std::string(text)).dump());
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

void wrong_value(const std::string& path, const Json& value, std::string_view expected) {
  fail("config", "{}: got {} expected {}", path.empty() ? "the root" : path, shown(value),
       expected);
}

Reader::Reader(const Json& object, std::string path) : object_(object), path_(std::move(path)) {
  if (!object.is_object()) wrong_value(path_, object, "an object");
}

const Json* Reader::take(const std::string& name) {
  known_.push_back(name);
  const auto found = object_.find(name);
  return found == object_.end() ? nullptr : &*found;
}

void Reader::finish() const {
  for (const auto& [name, value] : object_.items()) {
    if (std::find(known_.begin(), known_.end(), name) != known_.end()) continue;
    NIBBLE_CHECK(!known_.empty(), "config", "{}: unknown key; nothing is known here",
                 path_of(name));
    fail("config", "{}: unknown key; the nearest known one is \"{}\"", path_of(name),
         nearest(name, known_));
  }
  NIBBLE_CHECK(missing_.empty(), "config", "{}: missing; it has no default", path_of(missing_));
  NIBBLE_CHECK(broken_.empty(), "config", "{}", broken_);
}

namespace detail {
namespace {

// 1e6 is a float to JSON; Jsonnet computes all numbers so. Exact up to 2^53.
bool is_whole(const Json& value) {
  constexpr double kExact = 9007199254740992.0;
  const double number = value.is_number_float() ? value.get<double>() : 0.5;
  return std::abs(number) <= kExact && number == std::floor(number);
}

template <class Limit>
[[noreturn]] void wrong_integer(const Json& value, const std::string& path, Limit low, Limit high) {
  const bool integer = value.is_number_integer() || is_whole(value);
  wrong_value(path, value,
              integer ? fmt::format("an integer from {} to {}", low, high) : "an integer");
}

}  // namespace

std::string join(const std::string& path, std::string_view name) {
  return path.empty() ? std::string(name) : path + "." + std::string(name);
}

std::int64_t read_signed(const Json& value, const std::string& path, std::int64_t low,
                         std::int64_t high) {
  constexpr auto kMax = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());
  const bool too_high = value.is_number_unsigned() && value.get<std::uint64_t>() > kMax;
  const bool readable = (value.is_number_integer() && !too_high) || is_whole(value);
  const std::int64_t number = readable ? value.get<std::int64_t>() : 0;
  if (!readable || number < low || number > high) wrong_integer(value, path, low, high);
  return number;
}

std::uint64_t read_unsigned(const Json& value, const std::string& path, std::uint64_t high) {
  const bool whole = is_whole(value) && value.get<double>() >= 0;
  // A C++ int is stored as a signed number, whatever its value.
  const bool natural = value.is_number_integer() && value.get<std::int64_t>() >= 0;
  const bool readable = value.is_number_unsigned() || natural || whole;
  const std::uint64_t number = readable ? value.get<std::uint64_t>() : 0;
  if (!readable || number > high) wrong_integer(value, path, std::uint64_t{0}, high);
  return number;
}

double read_number(const Json& value, const std::string& path, double highest) {
  if (!value.is_number()) wrong_value(path, value, "a number");
  const double number = value.get<double>();
  if (std::abs(number) > highest) wrong_value(path, value, fmt::format("at most {}", highest));
  return number;
}

const std::string& read_string(const Json& value, const std::string& path) {
  if (!value.is_string()) wrong_value(path, value, "a string");
  return value.get_ref<const std::string&>();
}

void unknown_word(const std::string& path, const std::string& word,
                  const std::vector<std::string>& known) {
  fail("config", "{}: got \"{}\" expected one of {}; the nearest is \"{}\"", path, word,
       fmt::join(known, ", "), nearest(word, known));
}

}  // namespace detail
}  // namespace nibble::config
