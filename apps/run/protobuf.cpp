#include "apps/run/protobuf.h"

#include "tensor/check.h"

namespace nibble::run {
namespace {

enum WireType { kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5 };

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>((value & 0x7f) | 0x80));
  out.push_back(static_cast<char>(value));
}

}  // namespace

void ProtoWriter::append_fixed(std::string& out, std::uint64_t value, int size) {
  for (int i = 0; i < size; ++i) out.push_back(static_cast<char>((value >> (8 * i)) & 0xff));
}

void ProtoWriter::tag(int field, int wire_type) {
  append_varint(message_,
                static_cast<std::uint64_t>(field) << 3 | static_cast<unsigned>(wire_type));
}

void ProtoWriter::integer(int field, std::uint64_t value) {
  tag(field, kVarint);
  append_varint(message_, value);
}

void ProtoWriter::real64(int field, double value) {
  tag(field, kFixed64);
  append_fixed(message_, std::bit_cast<std::uint64_t>(value), 8);
}

void ProtoWriter::real32(int field, float value) {
  tag(field, kFixed32);
  append_fixed(message_, std::bit_cast<std::uint32_t>(value), 4);
}

void ProtoWriter::bytes(int field, std::string_view value) {
  tag(field, kDelimited);
  append_varint(message_, value.size());
  message_ += value;
}

std::uint64_t ProtoReader::fixed(std::string_view bytes, int size) {
  std::uint64_t value = 0;
  for (int i = 0; i < size; ++i) {
    value |= static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  }
  return value;
}

std::string_view ProtoReader::take(std::size_t count) {
  NIBBLE_CHECK(count <= rest_.size(), "events", "a message is cut short");
  const std::string_view bytes = rest_.substr(0, count);
  rest_.remove_prefix(count);
  return bytes;
}

std::uint64_t ProtoReader::varint() {
  std::uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(take(1)[0]);
    value |= static_cast<std::uint64_t>(byte & 0x7f) << shift;
    if (byte < 0x80) return value;
  }
  fail("events", "a number in a message is too long");
}

std::optional<ProtoReader::Field> ProtoReader::next() {
  if (rest_.empty()) return std::nullopt;
  const std::uint64_t key = varint();
  Field field{.number = static_cast<int>(key >> 3)};
  switch (key & 7) {
    case kVarint: field.bits = varint(); break;
    case kFixed64: field.bits = fixed(take(8), 8); break;
    case kFixed32: field.bits = fixed(take(4), 4); break;
    case kDelimited: field.bytes = take(varint()); break;
    default: fail("events", "a message has a field of unknown type {}", key & 7);
  }
  return field;
}

}  // namespace nibble::run
