#!/usr/bin/env python3
"""llm.c's train_gpt2cu as a peer of `nibble bench train`:

    --peer "llm.c=python3 tests/bench/train_llmc.py BINARY TOKENS"

TOKENS is a dataset's folder; llm.c reads the same shards (*train*.bin, *val*.bin). Its lines ("step 3/200 | loss … | … tok/s")
become JSON objects. llm.c knows its models by depth (d12, d24, d36, d48), so that widths and heads must be GPT-2's.
"""
import argparse
import json
import re
import subprocess
import sys

LINE = re.compile(r"step\s+(\d+)/\d+.*?loss\s+([\d.]+).*?([\d.]+) tok/s")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("tokens")
    for name in ("layers", "heads", "width", "vocab", "batch", "length", "accumulation", "steps"):
        parser.add_argument("--" + name, type=int, required=True)
    args = parser.parse_args()
    total = args.batch * args.length * args.accumulation
    command = [args.binary, "-i", f"{args.tokens}/*train*.bin", "-j", f"{args.tokens}/*val*.bin", "-e", f"d{args.layers}", "-b",
               str(args.batch), "-t", str(args.length), "-d", str(total), "-x", str(args.steps), "-v", "0", "-s", "0", "-r", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        if match := LINE.search(line):
            print(json.dumps({"step": int(match[1]), "loss": float(match[2]), "tokens_per_second": float(match[3])}),
                  flush=True)
    return process.wait()


if __name__ == "__main__":
    sys.exit(main())
