// Files as streams of bytes, decompressed on the way.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <string>

namespace nibble {

class ByteSource {
 public:
  virtual ~ByteSource() = default;
  // Up to `count` bytes; fewer than asked for only at the end, 0 after it. Throws Error("data")
  // naming the file when it cannot be read, is not what its name says, or is cut off.
  virtual std::size_t read(char* bytes, std::size_t count) = 0;
};

// By the name's ending: .gz, .xz, anything else as it is. Concatenated members are read as one.
std::unique_ptr<ByteSource> open_bytes(const std::filesystem::path& path);

// The whole (uncompressed) file.
std::string read_whole_file(const std::filesystem::path& path);

}  // namespace nibble
