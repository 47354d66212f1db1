#!/usr/bin/env python3
"""Writes wgmma_s8.cuh and wgmma_u8.cuh: one overload a tile width, because inline assembly must list every register."""
import pathlib

HEAD = """// Made by make_wgmma.py; do not edit. PTX ISA: wgmma.mma_async, m64nNk32, signed 8-bit operands in
// shared memory. d [64, N] (+)= a [64, 32] · b [N, 32]ᵀ. In a warpgroup, thread t holds rows
// 16 · (t / 32) + t % 32 / 4 (d[4j], d[4j + 1]) and 8 further down (d[4j + 2], d[4j + 3]), columns
// 8j + 2 · (t % 4) and the next.
#pragma once

#include <cstdint>

namespace nibble::cuda::int8 {
"""


HEAD_U8 = """// Made by make_wgmma.py; do not edit. As wgmma_s8.cuh, for codes without sign on either side.
#pragma once

#include "quant/cuda/ptx/wgmma_s8.cuh"

namespace nibble::cuda::int8 {

// Codes of an operand.
struct S8 {};
struct U8 {};
template <int kSums>
__device__ void wgmma(S8, S8, std::int32_t (&d)[kSums], std::uint64_t a, std::uint64_t b, int accumulate) {
  wgmma(d, a, b, accumulate);
}
"""


def overload(n, types=None):
    registers = n // 2
    lines = [""]
    tags = f"{types[0].upper()}, {types[1].upper()}, " if types else ""
    names = f"{types[0]}.{types[1]}" if types else "s8.s8"
    lines.append(f"__device__ inline void wgmma({tags}std::int32_t (&d)[{registers}], std::uint64_t a, std::uint64_t b, int accumulate) {{")
    lines.append('  asm volatile("{.reg .pred p; setp.ne.b32 p, %' + f'{registers + 2}, 0; "')
    lines.append(f'               "wgmma.mma_async.sync.aligned.m64n{n}k32.s32.{names} {{"')
    for i in range(0, registers, 16):
        registers_of = ", ".join(f"%{j}" for j in range(i, min(i + 16, registers)))
        lines.append(f'               "{registers_of}{"," if i + 16 < registers else "}"} "')
    lines.append(f'               ", %{registers}, %{registers + 1}, p;}}"')
    for i in range(0, registers, 8):
        outs = ", ".join(f'"+r"(d[{j}])' for j in range(i, min(i + 8, registers)))
        lines.append(f'               {": " if i == 0 else "  "}{outs}{"," if i + 8 < registers else ""}')
    lines.append('               : "l"(a), "l"(b), "r"(accumulate));')
    lines.append("}")
    return "\n".join(lines) + "\n"


text = HEAD + "".join(overload(n) for n in (64, 128, 192, 256)) + "\n}  // namespace nibble::cuda::int8\n"
(pathlib.Path(__file__).parent / "wgmma_s8.cuh").write_text(text, encoding="utf-8")
mixed = HEAD_U8 + "".join(overload(256, types) for types in (("s8", "u8"), ("u8", "s8"), ("u8", "u8"))) + "\n}  // namespace nibble::cuda::int8\n"
(pathlib.Path(__file__).parent / "wgmma_u8.cuh").write_text(mixed, encoding="utf-8")
