#!/usr/bin/env python3
"""What a recipe costs, without the chaos of whole runs: branches from one checkpoint of the unquantized run.

    python3 tests/bench/branches.py --nibble build-cuda/apps/nibble --data TOKENS --out OUT \\
        --recipes bf16 again=none:model.token_chunk=2048 int8 fprop=none,fprop=int8 [--at 500] [--steps 240] [--seeds 7]

Two runs of one seed that differ in a rounding end up to 0.04 nats apart after 1,526 steps, so that pairs of them see 0.01 only
in dozens. Branches begin where the weights are the same and are short: the same pair differs by 0.0002. The unquantized run of seed 1
goes to step --at; from its weights each recipe trains --steps with moments of its own (warm-up 20, cosine to 10 %), on the same
batches, then meets the whole validation split. NAME=RECIPE[:model.KEY=VALUE…] names a branch; the first is what others are compared with: the
difference of validation losses, and of training losses over each fifth of the branch with the standard error over its steps. The branches of
several seeds differ in their batches; bounds over seeds are `nibble compare`'s.
"""
import argparse
import json
import pathlib
import shutil
import statistics
import subprocess
import sys
import time

from protocol_control import named_recipe, rows_of


def branch_of(text):
    """NAME, NAME=RECIPE or either with :model.KEY=VALUE… behind it: (name, recipe, settings)."""
    # A recipe's own colons stand in specs and layer patterns, so that only the model's settings can be told from them.
    named, *settings = text.split(":model.")
    return *named_recipe(named), [f"model.{item}" for item in settings]


def nibble(args, output, *words):
    settings = [w for s in args.set for w in ("--set", s)]
    return [args.nibble, "train", "--config", args.config, "--device", args.device, "--set", f"data.path={args.data}",
            *settings, *words, "--output", str(output)]


def identity(args, about):
    return [args.nibble, args.config, args.data, args.set, *about]


def is_recorded(args, run, about):
    """Whether `run` holds just this work, finished; what it holds of other work is deleted."""
    note, about = run / "branch.json", identity(args, about)
    if note.exists() and json.loads(note.read_text()) == about:
        return True
    shutil.rmtree(run, ignore_errors=True)
    return False


def record(args, run, about):
    (run / "branch.json").write_text(json.dumps(identity(args, about)))


def base_run(args):
    """The unquantized run of seed 1, stopped once its checkpoint of step --at is there."""
    run = args.out / "base"
    file = run / "checkpoints" / f"step_{args.at:08}.safetensors"
    if is_recorded(args, run, [args.at]) and file.exists():
        return file
    words = ["--set", "trainer.seed=1", "--set", "recipe=none", "--set", f"trainer.checkpoint_every={args.at}", "--set",
             "trainer.keep=2"]
    with open(args.out / "base.log", "w") as log:
        process = subprocess.Popen(nibble(args, run, *words), stderr=log)
        while process.poll() is None and not file.exists():
            time.sleep(0.2)
        process.terminate()
        process.wait()
    if not file.exists():
        sys.exit(f"branches: the base run wrote no {file}: {(args.out / 'base.log').read_text().strip()[-400:]}")
    record(args, run, [args.at])
    return file


def train(args, base, name, recipe, settings, seed):
    run, about = args.out / f"{name}-{seed}", [args.at, args.steps, recipe, settings, seed]
    if not is_recorded(args, run, about):
        values = [f"trainer.seed={seed}", f"trainer.steps={args.steps}", "trainer.warmup=20", "trainer.log_every=1",
                  "trainer.checkpoint_every=0", "trainer.keep=1", f"recipe={recipe}", *settings]
        words = [w for v in values for w in ("--set", v)]
        done = subprocess.run(nibble(args, run, "--init", str(base), *words), stderr=subprocess.PIPE, text=True)
        shutil.rmtree(run / "checkpoints", ignore_errors=True)
        if done.returncode:
            sys.exit(f"branches: {run.name}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
        record(args, run, about)
    rows = rows_of(run)
    losses = [row["loss"] for row in rows if "loss" in row]
    if len(losses) != args.steps:
        sys.exit(f"branches: {run.name} has {len(losses)} steps, expected {args.steps}")
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
    names = [name for name, *_ in args.recipes]
    if len(set(names)) < len(names) or args.steps < 10:
        parser.error(f"got branches {', '.join(names)} of {args.steps} steps, expected names that differ and at least 10 steps")
    args.out.mkdir(parents=True, exist_ok=True)
    base = base_run(args)
    print("| branch | seed | validation | difference | training, by fifths of the branch |\n|---|---|---|---|---|")
    for seed in args.seeds:
        for name, recipe, settings in args.recipes:
            value, losses = train(args, base, name, recipe, settings, seed)
            if name == names[0]:
                first = value, losses
            each = [a - b for a, b in zip(losses, first[1])]
            fifths = [mean_and_error(each[i * len(each) // 5:(i + 1) * len(each) // 5]) for i in range(5)]
            print(f"| {name} | {seed} | {value:.5f} | {value - first[0]:+.5f} | {', '.join(fifths)} |", flush=True)
    for name in names[1:] if len(args.seeds) > 1 else []:
        runs = [args.out / f"{n}-{seed}" for n in (names[0], name) for seed in args.seeds]
        done = subprocess.run([args.nibble, "compare", *runs, "--baseline", runs[0], "--json"], check=True,
                              stdout=subprocess.PIPE, text=True)
        [group] = json.loads(done.stdout)["groups"]
        print(f"{name}: mean {group['mean']:+.5f}, bounds {group['lower']:+.5f} and {group['upper']:+.5f}")


if __name__ == "__main__":
    main()
