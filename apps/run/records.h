// TFRecord framing: length, masked crc32c of the length, payload, masked crc32c of the payload.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::run {

// CRC-32C (Castagnoli, reflected polynomial 0x82f63b78).
std::uint32_t crc32c(std::string_view bytes);

// The payload in its frame.
std::string frame_record(std::string_view payload);

struct Records {
  std::string bytes;                       // of the file
  std::vector<std::string_view> framed;    // each record with its frame, pointing into `bytes`
  std::vector<std::string_view> payloads;  // likewise, without
  std::size_t torn_bytes = 0;              // after the last whole record

  Records() = default;
  Records(const Records&) = delete;
  Records& operator=(const Records&) = delete;
  Records(Records&&) = delete;  // the views point into `bytes`
};

// Fills `records` from a file (missing: none). A kill leaves at most a damaged tail, which is
// counted in torn_bytes; throws when a record with others after it is damaged.
void read_records(const std::filesystem::path& path, Records& records);

}  // namespace nibble::run
