#include "apps/run/records.h"

#include <array>

#include "apps/run/append_file.h"
#include "apps/run/protobuf.h"
#include "tensor/check.h"

namespace nibble::run {
namespace {

constexpr std::size_t kHeader = 12;  // length u64, crc u32
constexpr std::size_t kFooter = 4;   // crc u32

constexpr std::array<std::uint32_t, 256> kTable = [] {
  std::array<std::uint32_t, 256> table{};
  for (std::uint32_t i = 0; i < 256; ++i) {
    std::uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}();

// The format masks its checksums, because a checksum of data that holds checksums is weak.
std::uint32_t masked_crc(std::string_view bytes) {
  const std::uint32_t crc = crc32c(bytes);
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

}  // namespace

std::uint32_t crc32c(std::string_view bytes) {
  std::uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = (crc >> 8) ^ kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff];
  return ~crc;
}

std::string frame_record(std::string_view payload) {
  std::string record;
  record.reserve(kHeader + payload.size() + kFooter);
  ProtoWriter::append_fixed(record, payload.size(), 8);
  ProtoWriter::append_fixed(record, masked_crc(record), 4);
  record += payload;
  ProtoWriter::append_fixed(record, masked_crc(payload), 4);
  return record;
}

void read_records(const std::filesystem::path& path, Records& records) {
  records.bytes = read_whole_file(path, "events");
  std::string_view rest = records.bytes;
  while (rest.size() >= kHeader + kFooter) {
    const std::uint64_t length = ProtoReader::fixed(rest, 8);
    const bool length_whole =
        ProtoReader::fixed(rest.substr(8), 4) == masked_crc(rest.substr(0, 8));
    if (!length_whole || length > rest.size() - kHeader - kFooter) break;
    const std::string_view framed = rest.substr(0, kHeader + length + kFooter);
    const std::string_view payload = framed.substr(kHeader, length);
    const bool whole =
        ProtoReader::fixed(framed.substr(kHeader + length), 4) == masked_crc(payload);
    if (!whole && framed.size() == rest.size()) break;
    NIBBLE_CHECK(whole, "events", "{}: the record at byte {} is damaged", path.string(),
                 rest.data() - records.bytes.data());
    records.framed.push_back(framed);
    records.payloads.push_back(payload);
    rest.remove_prefix(framed.size());
  }
  records.torn_bytes = rest.size();
}

}  // namespace nibble::run
