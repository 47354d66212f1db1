// The error of an allocation that could not be served, with what a caller needs to say what would.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "tensor/check.h"
#include "tensor/device.h"
#include "tensor/host_memory.h"

namespace nibble {

struct Shortage {
  Device device{};
  std::int64_t asked = 0;                        // bytes
  std::string purpose{};                         // empty: a tensor
  std::map<std::string, std::int64_t> in_use{};  // bytes of live tensors by memory scope
  std::optional<DeviceMemory> memory{};          // of the device, when known
};

// "allocate: out of memory on cuda:0: got 1.5 GiB asked for, expected at most the 0.2 GiB free of
// 139.8 GiB; in use: 87.0 GiB, of them activations 60.1 GiB, …; a smaller batch …"
class OutOfMemory : public Error {
 public:
  explicit OutOfMemory(Shortage shortage);
  const Shortage& shortage() const noexcept { return shortage_; }
  // The message without op and hint, for callers that know what would fit.
  std::string cause() const;
  std::int64_t in_use() const;  // all scopes

 private:
  Shortage shortage_;
};

// For memory that no Storage asks for, e.g. a library's workspace; the heap must not be locked.
[[noreturn]] void throw_out_of_memory(Device device, std::int64_t bytes, std::string purpose);

// "768 B", "3.0 KiB", "147.4 MiB"
std::string size_text(std::int64_t bytes);

}  // namespace nibble
