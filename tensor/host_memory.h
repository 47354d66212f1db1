// What this process may still take of the machine's memory.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>

namespace nibble {

// Bytes. `free` counts what the system would give up for us: file caches.
struct DeviceMemory {
  std::int64_t free = 0, total = 0;
};

// /proc/meminfo (swap counts as free, since it can be had), and less where the control group allows
// less. Nothing where the system tells neither.
std::optional<DeviceMemory> host_memory();
// The same from files elsewhere: `meminfo`, and a control group's folder of version 2.
std::optional<DeviceMemory> host_memory(const std::filesystem::path& meminfo,
                                        const std::filesystem::path& group);

}  // namespace nibble
