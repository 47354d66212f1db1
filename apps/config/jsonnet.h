// Config files: Jsonnet, of which JSON is a part.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "apps/config/json.h"

namespace nibble::config {

using Paths = std::vector<std::filesystem::path>;

// "a.jsonnet,b.jsonnet" -> {a.jsonnet, b.jsonnet}. Throws on an empty name.
Paths split_files(std::string_view list);

// Where config files are looked for after the importing file's folder (for files of the command
// line: the working directory): the configs installed beside this program, then those of the source
// tree.
Paths default_search_paths();

// Evaluates (import a) + (import b) + …: the right side wins, `+:` merges objects deeply. Imports
// are resolved from the importing file's folder, then from `search_paths` in their order. Throws
// "config: file:line:…: message" for what Jsonnet rejects, when a file is missing, larger than 1
// MiB or nested deeper than 256 brackets, and when the result is no object. Jsonnet computes in
// doubles: integers above 2^53 must come by --set.
Json evaluate(const Paths& files, const Paths& search_paths = default_search_paths());

// Evaluates `files` (none gives {}) and applies the overrides ("path=value") in their order.
Json load(const Paths& files, const std::vector<std::string>& overrides,
          const Paths& search_paths = default_search_paths());

// "v0.18.0"
std::string jsonnet_version_text();

}  // namespace nibble::config
