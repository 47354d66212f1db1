// Checkpoints made whole again after a mutation: the length of the header and the XXH64 that the
// metadata holds. Without it no mutated input would get past the checksum.
#pragma once

#include <cstring>
#include <optional>
#include <string>

#include "nn/checkpoint_file.h"
#include "tests/fuzz/target.h"

namespace nibble::fuzz {

struct SafetensorsParts {
  std::string header, data;

  static std::optional<SafetensorsParts> of(std::string_view bytes) {
    std::uint64_t length = 0;
    if (bytes.size() < sizeof length) return std::nullopt;
    std::memcpy(&length, bytes.data(), sizeof length);
    bytes.remove_prefix(sizeof length);
    if (length > bytes.size()) return std::nullopt;
    return SafetensorsParts{std::string(bytes.substr(0, length)),
                            std::string(bytes.substr(length))};
  }
  std::string whole() const {
    const std::uint64_t length = header.size();
    std::string bytes(sizeof length, '\0');
    std::memcpy(bytes.data(), &length, sizeof length);
    return bytes + header + data;
  }
};

// Bytes of the metadata entry `name` in the header as JSON spells them, between its quotes. Found
// as text, so that whatever else was mutated stays as it is.
inline std::optional<std::pair<std::size_t, std::size_t>> metadata_text(const std::string& header,
                                                                        const std::string& name) {
  const std::string key = "\"" + name + "\":\"";
  const std::size_t at = header.find(key);
  if (at == std::string::npos) return std::nullopt;
  const std::size_t begin = at + key.size();
  for (std::size_t end = begin; end < header.size(); ++end) {
    if (header[end] == '\\')
      ++end;
    else if (header[end] == '"')
      return std::pair{begin, end};
  }
  return std::nullopt;
}

// The bytes with the right checksum; as they are where they are no safetensors file with a state.
inline std::string mended(std::string_view bytes) {
  constexpr std::string_view kKey = R"(xxh64\":\")";
  constexpr std::size_t kDigits = 16;
  std::optional<SafetensorsParts> parts = SafetensorsParts::of(bytes);
  if (!parts) return std::string(bytes);
  const std::size_t key = parts->header.find(kKey);
  if (key == std::string::npos || key + kKey.size() + kDigits > parts->header.size())
    return std::string(bytes);
  try {
    const SafetensorsFile file(file_of(bytes, "mend.safetensors"));
    const auto state = file.metadata().find("state");
    if (state == file.metadata().end()) return std::string(bytes);
    parts->header.replace(key + kKey.size(), kDigits, checkpoint_checksum(state->second, file));
  } catch (const Error&) {
    return std::string(bytes);
  }
  return parts->whole();
}

}  // namespace nibble::fuzz
