#include "apps/config/overrides.h"

#include <algorithm>
#include <charconv>
#include <string>

#include "apps/config/rules.h"
#include "tensor/check.h"
#include "tensor/json_text.h"

namespace nibble::config {
namespace {

Json& descend(Json& node, std::string_view name, std::string_view path,
              std::string_view assignment) {
  if (node.is_null()) node = Json::object();
  if (node.is_array()) {
    std::size_t index = node.size();
    const auto [end, status] = std::from_chars(name.data(), name.data() + name.size(), index);
    const bool whole = status == std::errc{} && end == name.data() + name.size();
    NIBBLE_CHECK(whole && index < node.size(), "config",
                 "--set {}: {} is an array: got index \"{}\" expected a number below {}",
                 assignment, path, name, node.size());
    return node[index];
  }
  NIBBLE_CHECK(node.is_object(), "config", "--set {}: {} is {}, which has no \"{}\"", assignment,
               path, shown(node), name);
  return node[std::string(name)];
}

}  // namespace

void apply_override(Json& config, std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  NIBBLE_CHECK(equals != std::string_view::npos, "config",
               "--set {}: expected path=value, e.g. trainer.lr=3e-4", assignment);
  const std::string_view path = assignment.substr(0, equals);
  NIBBLE_CHECK(is_utf8(assignment), "config", "--set: the value is not valid UTF-8: {}",
               shown(Json(std::string(assignment))));
  const std::string_view text = assignment.substr(equals + 1);

  Json* node = &config;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('.', begin), path.size());
    const std::string_view name = path.substr(begin, end - begin);
    NIBBLE_CHECK(!name.empty(), "config", "--set {}: the path has an empty name", assignment);
    node = &descend(*node, name, path.substr(0, begin == 0 ? 0 : begin - 1), assignment);
    begin = end + 1;
  }
  Json value = parse_json<Json>(text);
  *node = value.is_discarded() ? Json(std::string(text)) : std::move(value);
}

}  // namespace nibble::config
