// What this program was built from and with; the values come from CMake at each build.
#pragma once

#include <string>

namespace nibble::run {

struct BuildInfo {
  std::string version;     // of nibble
  std::string commit;      // of the source tree; "unknown" outside git
  bool dirty = false;      // tracked files differed from the commit
  std::string compiler;    // "GNU 12.2.0"
  std::string build_type;  // "Release"
  std::string flags;       // CPU level and sanitizers
};

const BuildInfo& build_info();

}  // namespace nibble::run
