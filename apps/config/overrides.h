// Changes to a config from the command line.
#pragma once

#include <string_view>

#include "apps/config/json.h"

namespace nibble::config {

// Applies "trainer.lr=3e-4": a dotted path (numbers index arrays), then a value, which is JSON if
// it parses as JSON and a string if not (so `--set recipe=int8` needs no quotes). Objects on the
// path are made when missing; whether the key is known is for the Reader to say. Throws when there
// is no '=', a name is empty, or the path leads through something that is no object.
void apply_override(Json& config, std::string_view assignment);

}  // namespace nibble::config
