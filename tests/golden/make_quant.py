#!/usr/bin/env python3
"""Golden codes of the quantizers, written by an independent numpy transcription.

    python3 tests/golden/make_quant.py tests/golden/quant.txt

Transcribes the linear quantizers of the study "Exploring Quantization for Efficient Pre-Training"
(Chitsaz et al. 2024): scale, zero point, clamp, round half to even, and the linear layer's three
backward forms; and the dynamic 8-bit maps for optimizer states (Dettmers et al. 2022). Inputs are
regenerated from 32-bit hashes instead of being stored: test_quant_golden.cpp has the same
generators. Large results are stored as 64-bit FNV-1a hashes with the first codes in clear.
"""

import sys

import numpy as np

F32 = np.float32


# ---- inputs ---------------------------------------------------------------------------------


def hashes(seed, n):
    """n 32-bit hashes of seed·0x9E3779B9 + i."""
    x = (np.arange(n, dtype=np.uint64) + seed * 0x9E3779B9) & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint64(shift)
        x = (x * np.uint64(factor)) & 0xFFFFFFFF
    return x ^ (x >> np.uint64(16))


def bell(seed, rows, cols):
    """Sum of four uniforms, exact in f32: nearly normal, variance 4/3."""
    h = hashes(seed, 2 * rows * cols).astype(np.int64)
    halves = (h & 0xFFFF) + (h >> 16)
    return ((halves[0::2] + halves[1::2] - 131070) / 32768.0).astype(F32).reshape(rows, cols)


def make_input(kind, seed, rows, cols, qp):
    i = np.arange(rows)[:, None]
    j = np.arange(cols)[None, :]
    if kind == "bell":
        return bell(seed, rows, cols)
    if kind == "student":  # t with two degrees of freedom, by inversion
        u = (hashes(seed, rows * cols).astype(np.float64) + 0.5) / 4294967296.0
        return ((2 * u - 1) / np.sqrt(2 * u * (1 - u))).astype(F32).reshape(rows, cols)
    if kind == "outlier":  # every seventh channel is 64 times larger
        return bell(seed, rows, cols) * np.where(j % 7 == 3, F32(64), F32(1))
    if kind == "zeros":  # every third row and one column
        return np.where((i % 3 == 1) | (j == 2), F32(0), bell(seed, rows, cols))
    if kind == "ties":  # multiples of half a step in every tile that holds its largest value
        h = hashes(seed, rows * cols).astype(np.int64).reshape(rows, cols)
        x = ((h % (4 * qp + 1) - 2 * qp) / 16.0).astype(F32)
        return np.where((i + j) % 4 == 0, F32(qp / 8.0), x)
    if kind == "offset":  # far from zero
        return bell(seed, rows, cols) / F32(4) + F32(3)
    if kind == "positive":
        return np.abs(bell(seed, rows, cols))
    raise ValueError(kind)


# ---- the study's quantizers -----------------------------------------------------------------


def to_bf16(x):
    u = np.asarray(x, F32).view(np.uint32).astype(np.uint64)
    u = (u + 0x7FFF + ((u >> np.uint64(16)) & np.uint64(1))) & np.uint64(0xFFFF0000)
    return u.astype(np.uint32).view(F32)


class Quantizer:
    def __init__(self, bits, signed, symmetric, granularity, eps, split=1, bf16=False):
        self.bits, self.signed, self.symmetric = bits, signed, symmetric
        self.granularity, self.eps, self.split, self.bf16 = granularity, eps, split, bf16
        self.qn = -(2 ** (bits - 1)) if signed else 0
        self.qp = 2 ** (bits - 1) - 1 if signed else 2**bits - 1

    def text(self):
        eps = {0.0: "", 1e-5: ":floor1e-05", 1e-8: ":floor1e-08", 1e-9: ":floor1e-09"}[self.eps]
        return (
            f"{'' if self.signed else 'u'}int{self.bits}:{self.granularity}"
            + ("" if self.symmetric else ":asym")
            + eps
            + (f":split{self.split}" if self.split > 1 else "")
            + (":bf16math" if self.bf16 else "")
        )

    def _r(self, x):
        return to_bf16(x) if self.bf16 else np.asarray(x, F32)

    def _tile(self, x):
        """Codes, step and zero point of one tile; every operation rounds to f32 (or bf16)."""
        eps = self._r(F32(self.eps))
        if self.symmetric:
            step = self._r(np.maximum(np.abs(x).max(), eps) / F32(self.qp))
            zero = F32(0)
        else:
            span = np.maximum(self._r(x.max() - x.min()), eps)
            # Unsigned: the published code divides by 2·Qp here too and loses half of the range.
            step = self._r(span / F32(2 * self.qp if self.signed else self.qp))
            zero = np.round(self._r(self._r(x.min() / step) - F32(self.qn)))
        scaled = self._r(self._r(x / step) - zero)
        return np.round(np.clip(scaled, self.qn, self.qp)), step, zero

    def __call__(self, x):
        """(codes, steps, zeros, dequantized); steps and zeros in the order of the tiles."""
        x = self._r(x)
        rows, cols = x.shape
        part = cols // self.split
        height = rows if self.granularity in ("tensor", "col") else 1
        width = {"tensor": part, "row": part, "col": 1}.get(self.granularity)
        if width is None:
            width = int(self.granularity.removeprefix("group"))
        codes, values = np.zeros_like(x), np.zeros_like(x)
        steps, zeros = [], []
        for top in range(0, rows, height):
            for left in range(0, cols, width):
                at = np.s_[top : top + height, left : left + width]
                q, step, zero = self._tile(x[at])
                codes[at] = q
                values[at] = self._r(self._r(q + zero) * step)
                steps.append(step)
                zeros.append(zero)
        return codes, np.array(steps, F32), np.array(zeros, F32), values


# ---- dynamic maps ---------------------------------------------------------------------------


def dynamic_map(signed, exponent_bits, total_bits):
    values = [0.0, 1.0]
    sign_bits = 1 if signed else 0
    for i in range(exponent_bits):
        items = 2 ** (i + total_bits - 1 - exponent_bits + 1 - sign_bits) + 1
        edges = np.linspace(0.1, 1.0, items)
        middles = (edges[:-1] + edges[1:]) / 2 * 10.0 ** (i - exponent_bits + 1)
        values += list(middles) + ([-v for v in middles] if signed else [])
    return np.array(sorted(values)).astype(F32)


def encode_book(book, x, block):
    """Absmax blocks of a row; the nearest value, the lower one on a midpoint."""
    bounds = ((book[:-1].astype(np.float64) + book[1:].astype(np.float64)) / 2).astype(F32)
    codes = np.zeros(x.shape, np.int64)
    steps = []
    for r in range(x.shape[0]):
        for left in range(0, x.shape[1], block):
            piece = x[r, left : left + block]
            step = np.abs(piece).max() / book[-1]
            steps.append(step)
            scaled = piece / step if step > 0 else np.zeros_like(piece)
            codes[r, left : left + block] = np.searchsorted(bounds, scaled, side="left")
    return codes, np.array(steps, F32)


# ---- output ---------------------------------------------------------------------------------


def fnv(data):
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return f"{h:016x}"


def code_bytes(codes):
    return codes.astype(np.int64).astype(np.uint8).tobytes()


def float_bytes(x):
    return (np.asarray(x, F32) + F32(0)).tobytes()  # −0 counts as 0


def quantizer_lines():
    seed = 0
    shapes = {"group8": (9, 37), "split": (8, 24)}
    for bits in range(2, 9):
        for signed in (True, False):
            for symmetric in (True, False):
                for gran, split in (
                    ("tensor", 1), ("row", 1), ("col", 1), ("group8", 1), ("tensor", 3), ("row", 3),
                ):
                    kinds = ["bell", "student", "outlier", "zeros", "ties"]
                    kinds += ["positive"] if symmetric and not signed else ["offset"]
                    for kind in kinds:
                        seed += 1
                        bf16 = seed % 8 == 0
                        eps = (1e-5, 1e-8, 1e-9)[seed % 3]
                        q = Quantizer(bits, signed, symmetric, gran, eps, split, bf16)
                        rows, cols = shapes["split"] if split > 1 else shapes["group8"]
                        x = make_input(kind, seed, rows, cols, q.qp)
                        codes, steps, zeros, values = q(x)
                        first = " ".join(str(int(c)) for c in codes.flat[:8])
                        yield (
                            f"quant {q.text()} {rows} {cols} {kind} {seed} {fnv(code_bytes(codes))} "
                            f"{fnv(float_bytes(steps))} {fnv(float_bytes(zeros))} "
                            f"{fnv(float_bytes(values))} {first}"
                        )


def linear_lines():
    """Forward and the three backward forms; products in float64 of the f32 operands."""
    m, k, n = 7, 10, 6
    roles = {
        "w8": ("w", Quantizer(8, True, True, "row", 1e-5)),
        "w4": ("w", Quantizer(4, True, True, "tensor", 1e-5)),
        "a8": ("a", Quantizer(8, True, True, "row", 1e-5)),
        "a4": ("a", Quantizer(4, True, True, "col", 1e-5)),
        "a4asym": ("a", Quantizer(4, True, False, "row", 1e-5)),
        "g8": ("g", Quantizer(8, True, True, "row", 1e-9)),
        "g8split": ("g", Quantizer(8, True, True, "row", 1e-9, 3)),
        "g4": ("g", Quantizer(4, True, True, "tensor", 1e-9)),
    }
    groups = [["w8"], ["a8"], ["g8"], ["w4", "a4", "g4"], ["w8", "a8", "g8split"], ["a4asym", "g8"]]
    for index, group in enumerate(groups):
        x = make_input("student", 900 + index, m, k, 1)
        w = make_input("bell", 950 + index, n, k, 1)
        g = make_input("outlier", 990 + index, m, n, 1)
        chosen = {roles[name][0]: roles[name][1] for name in group}
        xq = chosen["a"](x)[3] if "a" in chosen else x
        wq = chosen["w"](w)[3] if "w" in chosen else w
        gq = chosen["g"](g)[3] if "g" in chosen else g
        d = np.float64
        y = xq.astype(d) @ wq.astype(d).T
        for mode in ("paper", "tim", "ste"):
            if mode == "paper":  # the gradient quantizer touches the weight gradient's product only
                dx, dw = g.astype(d) @ w.astype(d), gq.astype(d).T @ x.astype(d)
            elif mode == "tim":  # it touches the input gradient's product only
                dx, dw = gq.astype(d) @ w.astype(d), g.astype(d).T @ x.astype(d)
            else:  # straight-through: the backward sees the quantized operands
                dx, dw = g.astype(d) @ wq.astype(d), g.astype(d).T @ xq.astype(d)
            texts = [chosen[r].text() if r in chosen else "-" for r in "wag"]
            numbers = " ".join(f"{v:.9g}" for part in (y, dx, dw) for v in part.flat)
            yield f"linear {mode} {' '.join(texts)} {m} {k} {n} {index} {numbers}"


def book_lines():
    for name, book in (
        ("dyn8", dynamic_map(True, 7, 8)),
        ("dynu8", dynamic_map(False, 7, 8)),
        ("dyn4", dynamic_map(True, 3, 4)),
        ("lin4u", np.linspace(0, 1, 17)[1:].astype(F32)),
    ):
        yield f"book {name} {len(book)} " + " ".join(f"{v:08x}" for v in book.view(np.uint32))
        for seed, kind in enumerate(("bell", "student", "outlier", "zeros", "positive"), 500):
            x = make_input(kind, seed, 5, 300, 1)
            if name in ("dynu8", "lin4u"):
                x = x * x  # second moments
            codes, steps = encode_book(book, x, 256)
            first = " ".join(str(int(c)) for c in codes.flat[:8])
            yield (
                f"encode {name} 5 300 {kind} {seed} {fnv(code_bytes(codes))} "
                f"{fnv(float_bytes(steps))} {first}"
            )


def main():
    lines = ["# Written by make_quant.py; read by test_quant_golden.cpp."]
    for part in (quantizer_lines, linear_lines, book_lines):
        lines += part()
    with open(sys.argv[1], "w", encoding="ascii") as out:
        out.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
