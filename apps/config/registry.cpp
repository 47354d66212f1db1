#include "apps/config/registry.h"

namespace nibble::config::detail {

template <>
void read_value(const Json& value, const std::string& path, Component& field) {
  field.path = path;
  field.parameters = Json::object();
  if (value.is_string()) {
    field.type = value.get<std::string>();
    return;
  }
  if (!value.is_object()) wrong_value(path, value, "a word or an object with a \"type\"");
  // Without a type, parameters of the default one.
  NIBBLE_CHECK(value.contains("type") || !field.type.empty(), "config",
               "{}: missing; it has no default", join(path, "type"));
  for (const auto& [name, member] : value.items()) {
    if (name == "type") {
      field.type = read_string(member, join(path, name));
    } else {
      field.parameters[name] = member;
    }
  }
}

template <>
Json write_value(const Component& field) {
  Json object = {{"type", field.type}};
  object.update(field.parameters);
  return object;
}

}  // namespace nibble::config::detail
