// The JSON type of the apps: objects keep the order in which their fields were written.
#pragma once

#include <nlohmann/json.hpp>

namespace nibble {

using Json = nlohmann::ordered_json;

}  // namespace nibble
