// Elements moved unchanged: in the widest words that addresses, extents and strides allow.
#pragma once

#include <vector_types.h>

#include "tensor/cuda/common.cuh"

namespace nibble::cuda {

// Calls f(Word{}) with the widest word of 16, 8, 4, 2 or 1 bytes that divides all of `bytes`
// (sizes, strides and addresses, or-ed together).
template <class F>
void with_unit(std::uintptr_t bytes, F&& f) {
  if (bytes % 16 == 0) return f(uint4{});
  if (bytes % 8 == 0) return f(std::uint64_t{});
  if (bytes % 4 == 0) return f(std::uint32_t{});
  if (bytes % 2 == 0) return f(std::uint16_t{});
  f(std::uint8_t{});
}

inline std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

}  // namespace nibble::cuda
