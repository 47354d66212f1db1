// Flags by which blocks of a kernel tell each other that a part is there.
#pragma once

#include <cstdint>

namespace nibble::cuda {

inline constexpr std::int64_t kPartFlags = 4096;
// At least `count` words of the current device, at most kPartFlags, that are zeros whenever a
// kernel of stream() begins: who reads a flag last puts it back, so that no launch has to clear
// them. For kernels of stream() and its recordings alone, which run one after the other. The
// address is the same for the process's life.
std::uint32_t* part_flags(std::int64_t count);

}  // namespace nibble::cuda
