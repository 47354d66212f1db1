// The instructions of the int8 tensor-core kernel (PTX ISA: mma.m16n8k32).
#pragma once

#include "tensor/cuda/matrix_loads.cuh"

namespace nibble::cuda::int8 {

// c [16, 8] += a [16, 32] · b [8, 32]ᵀ. Lane l holds rows l / 4 (c[0], c[1]) and l / 4 + 8 (c[2],
// c[3]), columns 2 · (l % 4) and the next.
__device__ inline void multiply(std::int32_t (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                std::uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

}  // namespace nibble::cuda::int8
