#!/usr/bin/env python3
"""Quantized against unquantized training on the shipped text, paired seeds, and a 5-gram baseline.

    python3 tests/bench/shipped_text.py --device cuda --parallel 6 --steps 5000 --seeds 1 2 3 4 5
    python3 tests/bench/shipped_text.py --parallel 8 --threads 2 --minutes 9          # CPU

Trains one GPT-2 (apps/configs/shipped_text.jsonnet) on the first 90 % of data/text/austen.txt, by tokens of
a vocabulary learned from that part (--vocab-size; 0: bytes), with each recipe and seed, all runs for the
same number of steps: --steps, or as many as the slowest recipe makes in --minutes while --parallel runs
share the machine. Validation is the whole last 10 %, in nats a token and bits a byte. Verdicts follow the
protocol: per recipe the paired differences, their mean and the one-sided 95 % bounds (Student's t) relative
to the unquantized mean; the positive control, 4-bit activations per tensor, must come out worse. Recipes
carry 8-bit moments. The 5-gram models over bytes and over the same tokens are computed in the same run.
Exit 1 if a run fails.
"""
import argparse
import concurrent.futures
import json
import math
import os
import statistics
import subprocess
import sys
import time

MOMENTS = "moments.m=dyn8:group256,moments.v=dynu8:group256"
RECIPES = {
    "unquantized": "none",
    "int8": "int8",
    "W8A8G8 simulated": f"w8a8g8,tie=on,lm_head=off,{MOMENTS}",
    "control: A4 per tensor": f"a4_tensor,tie=on,lm_head=off,{MOMENTS}",
}
T95 = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895}  # one-sided, by degrees of freedom


def run(args, recipe, seed, steps, name, extra=()):
    out = os.path.join(args.out, name)
    begin = time.monotonic()
    done = subprocess.run(
        [args.nibble, "train", "--config", args.config, "--set", f"recipe={RECIPES[recipe]}", "--set",
         f"trainer.seed={seed}", "--set", f"trainer.steps={steps}", "--set", f"data.path={args.out}/tokens",
         "--output", out, "--threads", str(args.threads), "--device", args.device, *extra],
        capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{name}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    with open(os.path.join(out, "metrics.jsonl")) as f:
        rows = [json.loads(line) for line in f]
    val = [r for r in rows if "val_loss" in r][-1]
    print(f"{name}: {val['val_loss']:.4f} nats after {steps} steps, {time.monotonic() - begin:.0f} s", flush=True)
    return val["val_loss"], val.get("val_bits_per_byte", math.nan), time.monotonic() - begin


def five_gram(source):
    """Bits a byte of the 5-gram model (kneser_ney.py) over a text's bytes or a dataset's tokens."""
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "kneser_ney.py")
    done = subprocess.run([sys.executable, script, source], check=True, capture_output=True, text=True)
    return float(done.stdout.rsplit("order 5: ", 1)[1].split()[0])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", default="build/apps/nibble")
    parser.add_argument("--config", default="apps/configs/shipped_text.jsonnet")
    parser.add_argument("--text", default="data/text/austen.txt")
    parser.add_argument("--out", default="out/shipped_text")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--vocab-size", type=int, default=1024)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=9)
    parser.add_argument("--steps", type=int, default=0)
    args = parser.parse_args()
    os.makedirs(args.out, exist_ok=True)
    tokenizer = ["--tokenizer", "bpe", "--vocab-size", str(args.vocab_size)] if args.vocab_size else []
    subprocess.run([args.nibble, "tokenize", "--input", args.text, "--output", f"{args.out}/tokens",
                    "--val-fraction", "0.1", *tokenizer], check=True, stdout=subprocess.DEVNULL)
    jobs = [(recipe, seed) for seed in args.seeds for recipe in RECIPES]
    rounds = math.ceil(len(jobs) / args.parallel)
    with concurrent.futures.ThreadPoolExecutor(args.parallel) as pool:
        steps = args.steps
        if not steps:
            probe = 60
            timing = list(pool.map(lambda j: run(args, j[0], j[1], probe, f"probe_{j[1]}_{j[0]}".replace(" ", "_"),
                                                 ("--set", "trainer.eval_batches=1")), jobs))
            slowest = max(t for _, _, t in timing) / probe
            steps = int((args.minutes * 60 / rounds - 12) / slowest)
        print(f"{steps} steps a run, {args.parallel} runs at a time, {args.threads} threads each", flush=True)
        results = dict(zip(jobs, pool.map(
            lambda j: run(args, j[0], j[1], steps, f"run_{j[1]}_{j[0]}".replace(" ", "_")), jobs)))
    print("\n| recipe | " + " | ".join(f"seed {s}: nats, bits a byte" for s in args.seeds) + " | seconds |")
    print("|---|" + "---|" * (len(args.seeds) + 1))
    for recipe in RECIPES:
        row = [results[recipe, s] for s in args.seeds]
        print(f"| {recipe} | " + " | ".join(f"{v:.4f}, {b:.4f}" for v, b, _ in row) +
              f" | {statistics.mean(t for _, _, t in row):.0f} |")
    base = [results["unquantized", s][0] for s in args.seeds]
    print("\n| recipe | paired differences (nats) | mean | 95 % bounds, each one-sided | upper bound / loss | "
          "within 1 % | worse |\n|---|---|---|---|---|---|---|")
    for recipe in list(RECIPES)[1:]:
        d = [results[recipe, s][0] - b for s, b in zip(args.seeds, base)]
        mean, n = statistics.mean(d), len(d)
        margin = T95[n - 1] * statistics.stdev(d) / math.sqrt(n) if n > 1 else math.nan
        share = (mean + margin) / statistics.mean(base)
        print(f"| {recipe} | " + ", ".join(f"{x:+.4f}" for x in d) +
              f" | {mean:+.4f} | {mean - margin:+.4f} … {mean + margin:+.4f} | {100 * share:+.2f} % | "
              f"{'yes' if share <= 0.01 else 'no'} | {'yes' if mean - margin > 0 else 'not shown'} |")
    bits = [results["unquantized", s][1] for s in args.seeds]
    print(f"\nunquantized: {statistics.mean(bits):.4f} bits a byte (mean of {len(bits)} seeds, worst {max(bits):.4f}); "
          f"5-gram Kneser-Ney over bytes {five_gram(args.text):.4f}, over the same tokens "
          f"{five_gram(f'{args.out}/tokens'):.4f}")


if __name__ == "__main__":
    main()
