#!/usr/bin/env python3
"""llm.c's train_gpt2cu as a peer of `nibble bench train`:

    --peer "llm.c=python3 tests/bench/train_llmc.py BINARY TOKENS"

TOKENS is a dataset's folder; llm.c reads the same shards (*train*.bin). Its lines ("step 3/200 | loss … | … ms | …")
become JSON objects. llm.c knows its models by depth (d12, d24, d36, d48): width, heads and vocabulary must be GPT-2's.
"""
import argparse
import json
import os
import pty
import re
import shutil
import subprocess
import sys

LINE = re.compile(r"step\s+(\d+)/\d+.*?loss\s+([\d.]+).*?\|\s*([\d.]+) ms")
VOCABULARIES = (50257, 50304)
WIDTHS = {12: (768, 12), 24: (1024, 16), 36: (1280, 20), 48: (1600, 25)}


def lines(terminal):
    with open(terminal, errors="replace") as stream:
        try:
            yield from stream
        except OSError:  # EIO: its other side is closed
            return


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("tokens")
    for name in ("layers", "heads", "width", "vocab", "batch", "length", "accumulation", "steps"):
        parser.add_argument("--" + name, type=int, required=True)
    args = parser.parse_args()
    binary = shutil.which(args.binary)
    if binary is None:
        sys.exit(f"train_llmc: {args.binary} is no program: build llm.c's train_gpt2cu (make train_gpt2cu USE_CUDNN=1) and name it")
    if WIDTHS.get(args.layers) != (args.width, args.heads):
        sys.exit(f"train_llmc: got {args.layers} layers, width {args.width} and {args.heads} heads, expected a GPT-2: "
                 + ", ".join(f"{depth}: {width}, {heads}" for depth, (width, heads) in WIDTHS.items()))
    if args.vocab not in VOCABULARIES:
        sys.exit(f"train_llmc: got a vocabulary of {args.vocab}, expected a GPT-2's: {VOCABULARIES[0]}, or in rows "
                 f"{VOCABULARIES[1]}")
    total = args.batch * args.length * args.accumulation
    # It divides by the distance of validations (-v), validates before the first step and after the last, and its
    # shards for that must hold a batch: one batch (-m) of the training's.
    command = [os.path.abspath(binary), "-i", f"{args.tokens}/*train*.bin", "-j", f"{args.tokens}/*train*.bin", "-e",
               f"d{args.layers}", "-b", str(args.batch), "-t", str(args.length), "-d", str(total), "-x", str(args.steps),
               "-v", str(args.steps + 1), "-m", "1", "-s", "0", "-r", "0"]
    # It does not flush: into a pipe rows would come by the page, the last ones of a run that is ended not at all.
    reads, writes = pty.openpty()
    process = subprocess.Popen(command, stdout=writes)
    os.close(writes)
    for line in lines(reads):
        if match := LINE.search(line):
            print(json.dumps({"step": int(match[1]), "loss": float(match[2]),
                              "tokens_per_second": total / (float(match[3]) / 1e3)}), flush=True)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
