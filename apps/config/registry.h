// Parts of a config that are chosen by name: built-in ones and those of a user's program.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "apps/config/nearest.h"
#include "apps/config/reader.h"

namespace nibble::config {

// {"type": "lion", "beta": 0.9}, or "lion" alone; without "type" it is the field's default. What
// the parameters mean, the type's factory knows.
struct Component {
  std::string type;
  Json parameters = Json::object();
  std::string path{};  // the place in the config, for errors; not part of the value

  friend bool operator==(const Component& a, const Component& b) {
    return a.type == b.type && a.parameters == b.parameters;
  }
};

namespace detail {
template <>
void read_value(const Json& value, const std::string& path, Component& field);
template <>
Json write_value(const Component& field);
}  // namespace detail

// Factories of Product by type word. Each type has a config struct of its own (with visit), so a
// component's parameters get the same errors and the same resolved form as the rest of the config.
template <class Product, class... Args>
class Registry {
 public:
  // `what` is for messages: "optimizer".
  explicit Registry(std::string what) : what_(std::move(what)) {}

  template <class Config>
  void add(const std::string& type, std::function<Product(const Config&, Args...)> make) {
    Entry entry;
    entry.resolve = [](const Component& c) { return write(read<Config>(c.parameters, c.path)); };
    entry.make = [make = std::move(make)](const Component& c, Args... args) {
      return make(read<Config>(c.parameters, c.path), std::forward<Args>(args)...);
    };
    const bool fresh = entries_.emplace(type, std::move(entry)).second;
    NIBBLE_CHECK(fresh, "config", "{} \"{}\" is registered twice", what_, type);
  }

  bool contains(const std::string& type) const { return entries_.contains(type); }
  // Sorted.
  std::vector<std::string> types() const {
    std::vector<std::string> names;
    for (const auto& entry : entries_) names.push_back(entry.first);
    return names;
  }
  // Checks the parameters and fills in every default, so that the resolved config shows them.
  void resolve(Component& component) const {
    component.parameters = find(component).resolve(component);
  }
  Product make(const Component& component, Args... args) const {
    return find(component).make(component, std::forward<Args>(args)...);
  }

 private:
  struct Entry {
    std::function<Json(const Component&)> resolve;
    std::function<Product(const Component&, Args...)> make;
  };

  const Entry& find(const Component& component) const {
    const auto found = entries_.find(component.type);
    NIBBLE_CHECK(found != entries_.end(), "config",
                 "{}: unknown {} \"{}\"; the nearest known one is \"{}\" (of {})",
                 detail::join(component.path, "type"), what_, component.type,
                 nearest(component.type, types()), fmt::join(types(), ", "));
    return found->second;
  }

  std::string what_;
  std::map<std::string, Entry> entries_;
};

}  // namespace nibble::config
