#!/usr/bin/env python3
"""int8 products in every layout, Nibble's beside PyTorch's, on one GPU in one run.

    python3 tests/bench/gemm_beside_torch.py --nibble NIBBLE [--shapes layouts] [--forms int8_row] [--repeats 15]

Runs `nibble bench gemm`, then times PyTorch on its shapes in the same way: random data, the L2 emptied before each run, medians.
nt is A·Bᵀ with both operands stored along K, nn A·B, tn Aᵀ·B; int8 kernels want both along K, so that nn and tn hold
transpositions, which are counted. torch._int_mm writes int32 without scales (checked against f64); Nibble's forms write scaled bf16
(checked by itself). Prints a markdown table; exit 1 when a result is wrong.
"""
import argparse
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

import torch


def median_ms(repeats, flush, body):
    times = []
    for i in range(repeats + 2):
        flush.fill_(i)
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        body()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def stored(rows, k, along_k, make):
    """A matrix [rows, k] whose rows (columns, when not along_k) are contiguous, as a view."""
    return make(rows, k) if along_k else make(k, rows).t()


def measure(row, repeats, flush):
    m, n, k, layout = row["m"], row["n"], row["k"], row["layout"]

    def codes(r, c):
        return torch.randint(-127, 128, (r, c), dtype=torch.int8, device="cuda")

    def floats(r, c):
        return torch.randn(r, c, device="cuda").bfloat16()

    a, b = stored(m, k, layout != "tn", floats), stored(n, k, layout == "nt", floats)
    dense = median_ms(repeats, flush, lambda: torch.mm(a, b.t()))
    qa, qb = stored(m, k, layout != "tn", codes), stored(n, k, layout == "nt", codes)
    directly = None
    right = True
    for along_k in (True, False):
        def product():
            return torch._int_mm(qa.contiguous(), qb.contiguous().t() if along_k else qb.t())
        if not along_k and layout == "nt":
            continue
        try:
            out = product()
        except RuntimeError:
            continue
        some = slice(0, 64)
        right &= torch.equal(out[some].double(), qa[some].double() @ qb.double().t())
        ms = median_ms(repeats, flush, product)
        directly = ms if directly is None else min(directly, ms)
    return dense, directly, right


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--shapes", default="layouts")
    parser.add_argument("--forms", default="int8_row")
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "gemm.json"
        subprocess.run([args.nibble, "bench", "gemm", "--device", "cuda", "--shapes", args.shapes, "--forms", args.forms,
                        "--repeats", str(args.repeats), "--json", file], check=True, stdout=subprocess.DEVNULL)
        report = json.loads(file.read_text())
    flush = torch.empty(64 << 20, dtype=torch.float32, device="cuda")
    forms = [c["form"] for c in report["rows"][0]["cells"] if c["form"] != "dense"]
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}; time, TOP/s, ratio to PyTorch's bf16\n")
    names = ["M, N, K", "torch bf16", "torch._int_mm", "Nibble bf16", *(f"Nibble {f}" for f in forms)]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    wrong = 0
    for row in report["rows"]:
        dense, integers, right = measure(row, args.repeats, flush)
        wrong += not right
        operations = 2e-9 * row["m"] * row["n"] * row["k"]

        def cell(ms):
            return f"{ms * 1e3:.1f} us, {operations / ms:.0f}, {dense / ms:.2f}x" if ms else "refused"

        cells = [cell(dense), cell(integers) if right else "WRONG"]
        for c in row["cells"]:
            if "fault" in c:
                wrong += c["fault"].startswith("WRONG")
                cells.append(c["fault"])
            else:
                cells.append(cell(c["us"] / 1e3))
        layout = "" if row["layout"] == "nt" else f" {row['layout']}"
        print(f"| {row['m']}, {row['n']}, {row['k']}{layout} | " + " | ".join(cells) + " |", flush=True)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
