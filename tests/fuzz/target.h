// What fuzz targets share: an input becomes a file, and a parser may do one of two things with it,
// accept it or throw nibble::Error. Anything else ends the process, which is a finding.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <string_view>

#include "tensor/check.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace nibble::fuzz {

// A folder of this process, in memory where the system offers that; emptied before each use.
inline std::filesystem::path folder() {
  static const std::filesystem::path path = [] {
    const std::filesystem::path memory = "/dev/shm";
    const std::filesystem::path root =
        std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
    static std::filesystem::path own;
    own = root / ("nibble-fuzz-" + std::to_string(getpid()));
    std::atexit([] {
      std::error_code ignored;
      std::filesystem::remove_all(own, ignored);
    });
    return own;
  }();
  std::filesystem::remove_all(path);
  std::filesystem::create_directories(path);
  return path;
}

inline std::filesystem::path file_of(std::string_view bytes, const std::string& name) {
  const std::filesystem::path path = folder() / name;
  std::ofstream(path, std::ios::binary) << bytes;
  return path;
}

template <class F>
int run(F&& parse) {
  try {
    parse();
  } catch (const Error&) {
  }
  return 0;
}

inline std::string_view text(const std::uint8_t* data, std::size_t size) {
  return {reinterpret_cast<const char*>(data), size};
}

}  // namespace nibble::fuzz
