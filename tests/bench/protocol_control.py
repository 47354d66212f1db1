#!/usr/bin/env python3
"""The baseline control: GPT-2 small on the protocol's corpus, recipes against bf16 in paired seeds, on one GPU.

    python3 tests/bench/protocol_control.py --nibble build-cuda/apps/nibble --train corpus_train.jsonl.xz \\
        --val corpus_val.jsonl.xz --out OUT --seeds 1 2 3 [--minutes 9] [--recipes bf16 int8 NAME=RECIPE ...]

Trains apps/configs/gpt2_protocol.jsonnet (1,526 steps of 32 x 1024 tokens, then the whole validation split) once for
each seed and recipe, seed by seed, into OUT/RECIPE-SEED. A run that is there and finished is not repeated, and no run is
begun that would not end within --minutes, so calls may be strung together. Checkpoints are deleted as soon as a run
ends (but for --keep); run.json and metrics.jsonl stay. Each run prints its validation loss, median speed, and the SM clock and power
seen meanwhile; verdicts are `nibble compare`'s, the page is `nibble report`'s.
"""
import argparse
import json
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import time

RECIPES = {
    "bf16": "none",
    "int8": "int8",
    "int8_lm_head": "int8,lm_head=on",
    "w8a8g8": "w8a8g8,tie=on,lm_head=off",
    "a4_tensor": "a4_tensor,tie=on,lm_head=off",  # the positive control: known to be bad
}


class Power:
    """Samples of the SM clock (MHz) and the power (W) while a run lasts."""

    def __enter__(self):
        self.process = subprocess.Popen(
            ["nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader,nounits", "--loop=1"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        rows = [line.split(",") for line in self.process.communicate()[0].splitlines()]
        rows = [(float(a), float(b)) for a, b in (r for r in rows if len(r) == 2)]
        self.text = "clock and power unknown"
        if rows:
            clock, power = (statistics.median(column) for column in zip(*rows))
            self.text = f"SM {clock:.0f} MHz, {power:.0f} W"


def rows_of(run):
    with open(run / "metrics.jsonl") as f:
        return [json.loads(line) for line in f]


def is_finished(run, steps):
    try:
        return any("val_loss" in row and row["step"] == steps for row in rows_of(run))
    except OSError:
        return False


def tokenize(args):
    tokens = args.out / "tokens"
    if tokens.exists():
        return tokens
    vocab = pathlib.Path(__file__).resolve().parents[2] / "data" / "gpt2"
    subprocess.run([args.nibble, "tokenize", "--input", args.train, "--val-input", args.val, "--output", tokens,
                    "--tokenizer", "gpt2", "--vocab", vocab / "vocab.bpe", vocab / "encoder.json"], check=True)
    return tokens


def train(args, tokens, recipe, seed):
    run = args.out / f"{recipe}-{seed}"
    if run.exists():
        shutil.rmtree(run)
    begin = time.monotonic()
    with Power() as power:
        done = subprocess.run(
            [args.nibble, "train", "--config", "gpt2_protocol.jsonnet", "--set", f"data.path={tokens}", "--set",
             f"recipe={RECIPES[recipe]}", "--set", f"trainer.seed={seed}", "--set", f"trainer.steps={args.steps}",
             *args.set, "--device", "cuda", "--output", run], stderr=subprocess.PIPE, text=True)
    seconds = time.monotonic() - begin
    if not args.keep:
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
    if done.returncode:
        print(f"{run.name}: exit {done.returncode}: {done.stderr.strip()[-400:]}", flush=True)
        return seconds
    rows = rows_of(run)
    speed = statistics.median(r["tokens_per_second"] for r in rows if "tokens_per_second" in r)
    print(f"{run.name}: validation {rows[-1]['val_loss']:.4f}, {speed / 1e3:.0f} ktok/s, {seconds:.0f} s in all, "
          f"{power.text}", flush=True)
    return seconds


def named_recipe(text):
    """NAME of RECIPES, or NAME=RECIPE, whose own equals signs stand behind the first one: (name, recipe)."""
    name, given, recipe = text.partition("=")
    # A recipe without a name has its first equals sign behind a comma, a colon or a dot of its own.
    if re.fullmatch(r"[\w-]+", name) and (given and recipe) and name not in RECIPES:
        return name, recipe
    if not given and name in RECIPES:
        return name, RECIPES[name]
    raise argparse.ArgumentTypeError(f"got {text}, expected one of {', '.join(RECIPES)}, or another NAME=RECIPE")


def recipe_argument(text):
    name, RECIPES[name] = named_recipe(text)
    return name


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--train", required=True, type=pathlib.Path)
    parser.add_argument("--val", required=True, type=pathlib.Path)
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--recipes", nargs="+", type=recipe_argument, default=["bf16", "int8", "w8a8g8"],
                        metavar="NAME[=RECIPE]", help=f"of {', '.join(RECIPES)}, or a new name and its recipe text")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--steps", type=int, default=1526)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--keep", action="store_true", help="keep the checkpoints")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to nibble train")
    args = parser.parse_args()
    args.set = [word for item in args.set for word in ("--set", item)]
    end = time.monotonic() + 60 * args.minutes
    args.out.mkdir(parents=True, exist_ok=True)
    tokens = tokenize(args)
    left, lasted = 0, {}
    for seed in args.seeds:
        for recipe in args.recipes:
            if is_finished(args.out / f"{recipe}-{seed}", args.steps):
                continue
            if time.monotonic() + 1.05 * lasted.get(recipe, max(lasted.values(), default=0)) > end:
                left += 1
                continue
            lasted[recipe] = train(args, tokens, recipe, seed)
    if left:
        print(f"{left} runs are left for another call", flush=True)
    return 3 if left else 0


if __name__ == "__main__":
    sys.exit(main())
