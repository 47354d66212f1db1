// As much of the protocol-buffer wire format as event files need.
#pragma once

#include <bit>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace nibble::run {

// Appends fields to a message. Zero scalars are written too: leaving out proto3's defaults is up to
// the caller (members of a oneof must not be left out).
class ProtoWriter {
 public:
  void integer(int field, std::uint64_t value);
  void real64(int field, double value);
  void real32(int field, float value);
  // Strings, bytes, and messages that another ProtoWriter made.
  void bytes(int field, std::string_view value);
  // `repeated double` in packed form.
  template <class Values>
  void packed(int field, const Values& values) {
    std::string payload;
    for (const double value : values) append_fixed(payload, std::bit_cast<std::uint64_t>(value), 8);
    bytes(field, payload);
  }
  const std::string& message() const { return message_; }

  // Little-endian, the low `size` bytes.
  static void append_fixed(std::string& out, std::uint64_t value, int size);

 private:
  void tag(int field, int wire_type);

  std::string message_;
};

// Walks a message's fields in their order.
class ProtoReader {
 public:
  struct Field {
    int number = 0;
    std::uint64_t bits = 0;    // of a varint or a fixed field
    std::string_view bytes{};  // of a length-delimited field

    double real64() const { return std::bit_cast<double>(bits); }
    float real32() const { return std::bit_cast<float>(static_cast<std::uint32_t>(bits)); }
  };

  explicit ProtoReader(std::string_view message) : rest_(message) {}
  // The next field; nullopt at the end. Throws on a message that is cut short or of unknown form.
  std::optional<Field> next();

  // Little-endian; `bytes` has at least `size` of them.
  static std::uint64_t fixed(std::string_view bytes, int size);

 private:
  std::uint64_t varint();
  std::string_view take(std::size_t count);

  std::string_view rest_;
};

}  // namespace nibble::run
