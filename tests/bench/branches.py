#!/usr/bin/env python3
"""What a recipe costs, without the chaos of whole runs: branches from one checkpoint of the unquantized run.

    python3 tests/bench/branches.py --nibble build-cuda/apps/nibble --data TOKENS --out OUT \\
        --recipes bf16 again=none:model.token_chunk=2048 int8 fprop=none,fprop=int8 [--at 500] [--steps 240] [--seeds 7]

Two runs of one seed that differ in a rounding end up to 0.04 nats apart after 1,526 steps, so that pairs of them see 0.01 only
in dozens. Branches begin where the weights are the same and are short: the same pair differs by 0.0002. The unquantized run of seed 1
goes to step --at; from its weights each recipe trains --steps with moments of its own (warm-up 20, cosine to 10 %), on the same
batches, then meets the whole validation split. NAME=RECIPE[:model.KEY=VALUE…] names a branch; the first is what others are compared with: the
difference of validation losses, and of training losses over each fifth of the branch with the standard error over its steps. The branches of
several seeds differ in their batches; bounds are Student's one-sided 95 % over seeds, as the protocol's.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys

from protocol_control import RECIPES, rows_of

# One-sided 95 % quantiles of Student's t, by degrees of freedom.
STUDENT = {1: 6.314, 2: 2.920, 3: 2.353, 4: 2.132, 5: 2.015, 6: 1.943, 7: 1.895, 8: 1.860, 9: 1.833}


def branch_of(text):
    name, given, rest = text.partition("=")
    if not given:
        if name not in RECIPES:
            raise argparse.ArgumentTypeError(f"got {text}, expected one of {', '.join(RECIPES)}, or NAME=RECIPE[:model.KEY=VALUE…]")
        return name, RECIPES[name], []
    # A recipe's own colons stand in specs and layer patterns, so that only the model's settings can be told from them.
    recipe, *more = rest.split(":model.")
    return name, recipe, [f"model.{item}" for item in more]


def nibble(args, output, *words):
    settings = [w for s in args.set for w in ("--set", s)]
    return [args.nibble, "train", "--config", args.config, "--device", args.device, "--set", f"data.path={args.data}",
            *settings, *words, "--output", str(output)]


def base_run(args):
    """The unquantized run of seed 1, stopped once its checkpoint of step --at is there."""
    file = args.out / "base" / "checkpoints" / f"step_{args.at:08}.safetensors"
    if file.exists():
        return file
    shutil.rmtree(args.out / "base", ignore_errors=True)
    words = ["--set", "trainer.seed=1", "--set", "recipe=none", "--set", f"trainer.checkpoint_every={args.at}"]
    process = subprocess.Popen(nibble(args, args.out / "base", *words), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not file.exists():
        try:
            process.wait(timeout=0.2)
        except subprocess.TimeoutExpired:
            pass
    process.terminate()
    said = process.communicate()[1]
    if not file.exists():
        sys.exit(f"branches: the base run wrote no {file}: {said.strip()[-400:]}")
    return file


def train(args, base, name, recipe, settings, seed):
    run = args.out / f"{name}-{seed}"
    if not (run / "metrics.jsonl").exists() or not any("val_loss" in row for row in rows_of(run)):
        shutil.rmtree(run, ignore_errors=True)
        values = [f"trainer.seed={seed}", f"trainer.steps={args.steps}", "trainer.warmup=20", "trainer.log_every=1",
                  "trainer.checkpoint_every=0", "trainer.keep=1", f"recipe={recipe}", *settings]
        words = [w for v in values for w in ("--set", v)]
        done = subprocess.run(nibble(args, run, "--init", str(base), *words), stderr=subprocess.PIPE, text=True)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        if done.returncode:
            sys.exit(f"branches: {run.name}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    rows = rows_of(run)
    losses = [row["loss"] for row in rows if "loss" in row]
    return next(row["val_loss"] for row in reversed(rows) if "val_loss" in row), losses


def mean_and_error(values):
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0
    return f"{statistics.mean(values):+.5f} ± {error:.5f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--data", required=True, help="a tokenized folder")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--recipes", nargs="+", type=branch_of, required=True, metavar="NAME[=RECIPE[:model.KEY=VALUE…]]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[7])
    parser.add_argument("--at", type=int, default=500)
    parser.add_argument("--steps", type=int, default=240)
    parser.add_argument("--config", default="gpt2_protocol.jsonnet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for the base and all branches")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    base = base_run(args)
    first, table = None, {}
    print("| branch | seed | validation | difference | training, by fifths of the branch |\n|---|---|---|---|---|")
    for seed in args.seeds:
        for name, recipe, settings in args.recipes:
            value, losses = train(args, base, name, recipe, settings, seed)
            if name == args.recipes[0][0]:
                first = value, losses
            each = [a - b for a, b in zip(losses, first[1])]
            fifths = [mean_and_error(each[i * len(each) // 5:(i + 1) * len(each) // 5]) for i in range(5)]
            table.setdefault(name, []).append(value - first[0])
            print(f"| {name} | {seed} | {value:.5f} | {value - first[0]:+.5f} | {', '.join(fifths)} |", flush=True)
    for name, differences in table.items():
        if len(differences) > 1 and name != args.recipes[0][0]:
            mean = statistics.mean(differences)
            bound = STUDENT.get(len(differences) - 1, 1.645) * statistics.stdev(differences) / len(differences) ** 0.5
            print(f"{name}: mean {mean:+.5f}, bounds {mean - bound:+.5f} and {mean + bound:+.5f} (n = {len(differences)})")
    (args.out / "branches.json").write_text(json.dumps(table, indent=1) + "\n")


if __name__ == "__main__":
    main()
