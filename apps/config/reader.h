// Config structs from JSON and back, by one visitor function a struct:
//
//   struct TrainerConfig { double lr = 3e-4; std::int64_t steps = 0; std::optional<double> clip; };
//   template <class V>
//   void visit(V& v, TrainerConfig& c) {
//     v("lr", c.lr, config::above(0.0));
//     v.required("steps", c.steps, config::at_least(1));
//     v("clip", c.clip, config::above(0.0));
//     v.check(!c.clip || c.lr < *c.clip, "clip", "must be above lr = {}", c.lr);
//   }
//   auto c = config::read<TrainerConfig>(json);  Json resolved = config::write(c);
//
// A field is a bool, a number, a string, a path, Json (anything), an enum with words, a type with
// from_word/to_word, a struct with visit, or an optional, vector or map<string, …> of those.
// * enum:  const config::Words<E>& words_of(E);                  found by its namespace
// * word:  void from_word(std::string_view, T&);  std::string to_word(const T&);   likewise
// A field that is not required keeps the value it has: the struct's initialisers are the defaults.
// Errors name the path from the root: "config: trainer.lr: got "fast" expected a number".
#pragma once

#include <cmath>
#include <concepts>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "apps/config/json.h"
#include "apps/config/rules.h"

namespace nibble::config {

class Reader;
class Writer;

// The words of an enum, in the order in which errors list them.
template <class E>
using Words = std::vector<std::pair<std::string, E>>;

template <class T>
concept Worded = std::is_enum_v<T> && requires(T e) {
  words_of(e);
};
template <class T>
concept WordLike = requires(T& t, const T& c, std::string_view s) {
  from_word(s, t);
  { to_word(c) } -> std::convertible_to<std::string>;
};
template <class T>
concept Visited = std::is_class_v<T> && requires(Reader& r, Writer& w, T& t) {
  visit(r, t);
  visit(w, t);
};

namespace detail {
template <class T, template <class...> class Template>
inline constexpr bool is_a = false;
template <template <class...> class Template, class... Args>
inline constexpr bool is_a<Template<Args...>, Template> = true;
template <class T>
inline constexpr bool always_false = false;

std::string join(const std::string& path, std::string_view name);
std::int64_t read_signed(const Json& value, const std::string& path, std::int64_t low,
                         std::int64_t high);
std::uint64_t read_unsigned(const Json& value, const std::string& path, std::uint64_t high);
double read_number(const Json& value, const std::string& path, double highest);
const std::string& read_string(const Json& value, const std::string& path);
[[noreturn]] void unknown_word(const std::string& path, const std::string& word,
                               const std::vector<std::string>& known);
template <class T>
void read_value(const Json& value, const std::string& path, T& field);
template <class T>
Json write_value(const T& field);
}  // namespace detail

// Hands the members of one JSON object to a struct's visit function.
class Reader {
 public:
  // Throws when `object` is none. `path` is the object's place in the config, "" for the root.
  Reader(const Json& object, std::string path);

  template <class T, class... Rules>
  void operator()(const std::string& name, T& field, const Rules&... rules) {
    if (const Json* value = take(name)) {
      detail::read_value(*value, path_of(name), field);
      (check_rule(name, field, rules), ...);
    }
  }
  template <class T, class... Rules>
  void required(const std::string& name, T& field, const Rules&... rules) {
    (*this)(name, field, rules...);
    if (!object_.contains(name) && missing_.empty()) missing_ = name;
  }
  // For rules between fields: finish() throws "config: <path of name>: <message>" for the first
  // that does not hold, once it knows the keys: an unknown or missing one explains more than the
  // default that stands in its place.
  template <class... Args>
  void check(bool holds, const std::string& name, fmt::format_string<Args...> message,
             Args&&... args) {
    if (!holds && broken_.empty())
      broken_ =
          fmt::format("{}: {}", path_of(name), fmt::format(message, std::forward<Args>(args)...));
  }
  // Throws for keys that no field asked for (naming the nearest one), then for a missing field,
  // then for a broken rule.
  void finish() const;

 private:
  std::string path_of(std::string_view name) const { return detail::join(path_, name); }
  const Json* take(const std::string& name);

  template <class T, class Rule>
  void check_rule(const std::string& name, const T& field, const Rule& rule) const {
    if constexpr (detail::is_a<T, std::optional>) {
      if (field) check_rule(name, *field, rule);
    } else if constexpr (detail::is_a<T, std::vector> && !std::is_same_v<Rule, NotEmpty>) {
      for (const auto& element : field) check_rule(name, element, rule);
    } else if (!rule.holds(field)) {
      wrong_value(path_of(name), object_[name], rule.text());
    }
  }

  const Json& object_;
  std::string path_;
  std::string missing_, broken_;
  std::vector<std::string> known_;
};

// Collects a struct's fields into an object. What it writes, Reader reads back to an equal struct.
class Writer {
 public:
  template <class T, class... Rules>
  void operator()(const std::string& name, const T& field, const Rules&...) {
    object_[name] = detail::write_value(field);
  }
  template <class T, class... Rules>
  void required(const std::string& name, const T& field, const Rules&...) {
    object_[name] = detail::write_value(field);
  }
  template <class... Args>
  void check(bool, const std::string&, fmt::format_string<Args...>, Args&&...) {}

  Json take() { return std::move(object_); }

 private:
  Json object_ = Json::object();
};

// `json` over the values that `initial` already has.
template <class T>
T read(const Json& json, const std::string& path = "", T initial = {}) {
  detail::read_value(json, path, initial);
  return initial;
}

// Every field with its value, defaults included, in the order of visit.
template <class T>
Json write(const T& value) {
  return detail::write_value(value);
}

namespace detail {

template <class T>
void read_value(const Json& value, const std::string& path, T& field) {
  if constexpr (std::is_same_v<T, Json>) {
    field = value;
  } else if constexpr (std::is_same_v<T, bool>) {
    if (!value.is_boolean()) wrong_value(path, value, "true or false");
    field = value.template get<bool>();
  } else if constexpr (std::signed_integral<T>) {
    using Limits = std::numeric_limits<T>;
    field = static_cast<T>(read_signed(value, path, Limits::min(), Limits::max()));
  } else if constexpr (std::unsigned_integral<T>) {
    field = static_cast<T>(read_unsigned(value, path, std::numeric_limits<T>::max()));
  } else if constexpr (std::floating_point<T>) {
    const double highest = static_cast<double>(std::numeric_limits<T>::max());
    field = static_cast<T>(read_number(value, path, highest));
  } else if constexpr (std::is_same_v<T, std::string> || std::is_same_v<T, std::filesystem::path>) {
    field = read_string(value, path);
  } else if constexpr (Worded<T>) {
    std::vector<std::string> known;
    for (const auto& [word, e] : words_of(T{})) {
      known.push_back(word);
      if (value == word) {
        field = e;
        return;
      }
    }
    unknown_word(path, read_string(value, path), known);
  } else if constexpr (WordLike<T>) {
    const std::string& word = read_string(value, path);
    try {
      from_word(word, field);
    } catch (const Error& error) {
      fail("config", "{}: {}", path, error.what());
    }
  } else if constexpr (is_a<T, std::optional>) {
    if (value.is_null()) {
      field.reset();
    } else {
      read_value(value, path, field ? *field : field.emplace());
    }
  } else if constexpr (is_a<T, std::vector>) {
    if (!value.is_array()) wrong_value(path, value, "an array");
    field.clear();
    for (std::size_t i = 0; i < value.size(); ++i) {
      typename T::value_type element{};
      read_value(value[i], join(path, std::to_string(i)), element);
      field.push_back(std::move(element));
    }
  } else if constexpr (is_a<T, std::map>) {
    if (!value.is_object()) wrong_value(path, value, "an object");
    field.clear();
    for (const auto& [name, member] : value.items()) {
      read_value(member, join(path, name), field[name]);
    }
  } else {
    static_assert(Visited<T>, "a config field's type needs visit, words_of or from_word/to_word");
    Reader reader(value, path);
    visit(reader, field);
    reader.finish();
  }
}

template <class T>
Json write_value(const T& field) {
  if constexpr (std::floating_point<T>) {
    NIBBLE_CHECK(std::isfinite(field), "config", "got {} in a config expected a finite number",
                 field);
    return static_cast<double>(field);
  } else if constexpr (std::is_same_v<T, std::filesystem::path>) {
    return field.string();
  } else if constexpr (Worded<T>) {
    for (const auto& [word, e] : words_of(field)) {
      if (e == field) return word;
    }
    fail("config", "an enum's value {} has no word", static_cast<std::int64_t>(field));
  } else if constexpr (std::is_same_v<T, Json> || std::is_arithmetic_v<T> ||
                       std::is_same_v<T, std::string>) {
    return field;
  } else if constexpr (WordLike<T>) {
    return std::string(to_word(field));
  } else if constexpr (is_a<T, std::optional>) {
    return field ? write_value(*field) : Json(nullptr);
  } else if constexpr (is_a<T, std::vector>) {
    Json array = Json::array();
    for (std::size_t i = 0; i < field.size(); ++i) {
      array.push_back(write_value<typename T::value_type>(field[i]));
    }
    return array;
  } else if constexpr (is_a<T, std::map>) {
    Json object = Json::object();
    for (const auto& [name, member] : field) object[name] = write_value(member);
    return object;
  } else {
    static_assert(Visited<T>, "a config field's type needs visit, words_of or from_word/to_word");
    Writer writer;
    T copy = field;  // visit takes what a Reader may change
    visit(writer, copy);
    return writer.take();
  }
}

}  // namespace detail
}  // namespace nibble::config
