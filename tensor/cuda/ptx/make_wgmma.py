#!/usr/bin/env python3
"""Writes wgmma_bf16.cuh: overloads by width, because inline assembly must list every register."""
import pathlib

HEAD = """// Made by make_wgmma.py; do not edit. PTX ISA: wgmma.mma_async, m64nNk16, bf16 operands, f32 sums.
// d [64, N] (+)= a [64, 16] · b, where b is [N, 16]ᵀ in shared memory or, with kSummedRows, [16, N].
// `a` lies in shared memory too, or in registers (the fragment of mma.m16n8k16, a warp to 16 rows).
// In a warpgroup, thread t holds rows 16 · (t / 32) + t % 32 / 4 (d[j][0], d[j][1]) and 8 further
// down (d[j][2], d[j][3]), columns 8j + 2 · (t % 4) and the next.
#pragma once

#include <cstdint>

namespace nibble::cuda::hopper {
"""


def overload(n, in_registers):
    count = n // 2
    left = "const std::uint32_t (&a)[4]" if in_registers else "std::uint64_t a"
    first = count + (4 if in_registers else 1)  # of what follows the left operand
    a = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}" if in_registers else f"%{count}"
    transposes = f"%{first + 2}" if in_registers else f"0, %{first + 2}"
    lines = [
        "",
        "template <bool kSummedRows>",
        f"__device__ void wgmma(float (&d)[{n // 8}][4], {left}, std::uint64_t b, int accumulate) {{",
        f'  asm volatile("{{.reg .pred p; setp.ne.b32 p, %{first + 1}, 0; "',
        f'               "wgmma.mma_async.sync.aligned.m64n{n}k16.f32.bf16.bf16 {{"',
    ]
    for i in range(0, count, 16):
        names = ", ".join(f"%{j}" for j in range(i, min(i + 16, count)))
        lines.append(f'               "{names}{"," if i + 16 < count else "}"} "')
    lines.append(f'               ", {a}, %{first}, p, 1, 1, {transposes};}}"')
    for i in range(0, count, 4):
        outs = ", ".join(f'"+f"(d[{i // 4}][{j}])' for j in range(4))
        lines.append(f'               {": " if i == 0 else "  "}{outs}{"," if i + 4 < count else ""}')
    a = ", ".join(f'"r"(a[{i}])' for i in range(4)) if in_registers else '"l"(a)'
    lines.append(f'               : {a}, "l"(b), "r"(accumulate), "n"(kSummedRows ? 1 : 0));')
    lines.append("}")
    return "\n".join(lines) + "\n"


text = HEAD + "".join(overload(n, r) for n in (64, 128) for r in (False, True)) + "\n}  // namespace nibble::cuda::hopper\n"
(pathlib.Path(__file__).parent / "wgmma_bf16.cuh").write_text(text, encoding="utf-8")
