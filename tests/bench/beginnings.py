#!/usr/bin/env python3
"""The first --until steps of whole runs: many paired seeds for the price of a few whole runs.

    python3 tests/bench/beginnings.py --nibble build-cuda/apps/nibble --data TOKENS --out OUT \\
        --recipes bf16 int8_lm_head NAME=RECIPE … [--until 300] [--seeds 1 2 …] [--gpus 0 1]

Most of what separates two runs of one seed after 1,526 steps arises before step 400, from roundings (chaos) and from recipes alike. So
each recipe trains the configuration's own schedule, is stopped at --until, and the training losses over the second half of that are
compared with the first recipe's, seed by seed: equal batches, so that their noise cancels. What differs here is a reason to look, no
verdict of the protocol: that takes whole runs. A run that is there, of the same words, is not repeated. NAME=RECIPE names a recipe beside the known ones.
"""
import argparse
import concurrent.futures
import json
import os
import pathlib
import queue
import shutil
import statistics
import subprocess
import sys
import time

from protocol_control import RECIPES, recipe_argument


def losses_of(run):
    """Step → training loss; nothing of a run that has not begun. A line that is still being written is left for later."""
    try:
        lines = (run / "metrics.jsonl").read_text().split("\n")[:-1]
    except OSError:
        return {}
    return {row["step"]: row["loss"] for row in map(json.loads, lines) if "loss" in row}


def begin(args, recipe, seed, gpu):
    """Trains to --until; the error's text, or nothing."""
    run, note = args.out / f"{recipe}-{seed}", args.out / f"{recipe}-{seed}.json"
    values = [f"data.path={args.data}", f"recipe={RECIPES[recipe]}", f"trainer.seed={seed}", "trainer.checkpoint_every=0", *args.set]
    program = pathlib.Path(args.nibble).stat()
    about = json.dumps([args.nibble, program.st_size, program.st_mtime, args.config, *values])
    if note.exists() and note.read_text() == about and max(losses_of(run), default=0) >= args.until:
        return ""
    shutil.rmtree(run, ignore_errors=True)
    note.write_text(about)
    where = os.environ if gpu is None else os.environ | {"CUDA_VISIBLE_DEVICES": gpu}
    log = args.out / f"{recipe}-{seed}.log"
    with open(log, "w") as to:
        process = subprocess.Popen(
            [args.nibble, "train", "--config", args.config, "--device", args.device, "--output", run,
             *(word for value in values for word in ("--set", value))], stdout=to, stderr=to, env=where)
        try:
            while process.poll() is None and max(losses_of(run), default=0) < args.until:
                time.sleep(0.2)
        finally:
            process.kill()  # its last checkpoint is not wanted
            process.wait()
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    if max(losses_of(run), default=0) >= args.until:
        return ""
    return f"beginnings: {run.name} ended before step {args.until}: {log.read_text().strip()[-400:]}"


def difference(args, recipe, base, seed):
    a, b = losses_of(args.out / f"{base}-{seed}"), losses_of(args.out / f"{recipe}-{seed}")
    steps = [step for step in a if args.until / 2 < step <= args.until and step in b]
    if not steps:
        sys.exit(f"beginnings: got no logged step between {args.until // 2} and {args.until}; hint: a larger --until, or --set trainer.log_every=1")
    return statistics.mean(b[step] - a[step] for step in steps)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nibble", required=True)
    parser.add_argument("--data", required=True, help="a tokenized folder")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--recipes", nargs="+", type=recipe_argument, required=True, metavar="NAME[=RECIPE]",
                        help=f"of {', '.join(RECIPES)}, or a new name and its recipe text")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--until", type=int, default=300)
    parser.add_argument("--config", default="gpt2_protocol.jsonnet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--gpus", nargs="+", default=[None], help="numbers of GPUs, each with a run of its own at a time")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="passed on to nibble train")
    args = parser.parse_args()
    if len(args.recipes) < 2 or len(set(args.recipes)) < len(args.recipes) or len(set(args.seeds)) < len(args.seeds):
        parser.error("expected at least two recipes, and each recipe and seed once")
    args.out.mkdir(parents=True, exist_ok=True)
    free = queue.SimpleQueue()
    for gpu in args.gpus:
        free.put(gpu)

    def work(job):
        gpu = free.get()
        try:
            return begin(args, *job, gpu)
        finally:
            free.put(gpu)

    jobs = [(recipe, seed) for seed in args.seeds for recipe in args.recipes]
    with concurrent.futures.ThreadPoolExecutor(len(args.gpus)) as pool:
        errors = [error for error in pool.map(work, jobs) if error]
    if errors:
        sys.exit("\n".join(errors))
    base = args.recipes[0]
    print(f"Training loss of steps {args.until // 2 + 1} to {args.until} against {base}:\n")
    print(f"| recipe | {' | '.join(f'seed {seed}' for seed in args.seeds)} | mean | standard error |\n|{'---|' * (len(args.seeds) + 3)}")
    for recipe in args.recipes[1:]:
        each = [difference(args, recipe, base, seed) for seed in args.seeds]
        error = f"{statistics.stdev(each) / len(each) ** 0.5:.4f}" if len(each) > 1 else "-"
        print(f"| {recipe} | {' | '.join(f'{x:+.4f}' for x in each)} | {statistics.mean(each):+.4f} | {error} |")


if __name__ == "__main__":
    main()
