#!/usr/bin/env python3
"""`test_kill.py NIBBLE [cuda]`: whatever kills a run, the resumed one ends in the bytes of one never killed.

20 runs are killed: 12 at seeded random instants, 8 inside the writing of a checkpoint, at the fault
points before a write, an fsync and the rename. Each is resumed to its end and its last checkpoint
and its samples compared with those of an undisturbed run; so are undisturbed runs at 1, 2 and 4 threads. On a GPU there
are 5 kills of runs that replay a graph, undisturbed runs with and without one end alike, and a checkpoint that moves
from one device to the other goes on with a warning.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
NIBBLE = pathlib.Path(sys.argv[1]).resolve()
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
ON_GPU = DEVICE != "cpu"
SEED, RANDOM_KILLS = 20261122, 3 if ON_GPU else 12
# The first passage is run.json's; from the second on they are those of checkpoints, early and late.
FAULTS = ["write:3", "write:90", "write:400", "fsync:2", "fsync:9", "rename:2", "rename:4", "rename:11"]
if ON_GPU:
    FAULTS = ["write:90", "rename:4"]
SETTINGS = ["--set", "model.layers=1", "--set", "model.width=32", "--set", "model.context=48",
            "--set", "trainer.steps=40", "--set", "trainer.checkpoint_every=3", "--set", "trainer.batch=4",
            "--set", "trainer.eval_every=20", "--set", "trainer.accumulation=2",
            "--set", 'samples.prompts=["It is",""]', "--set", "samples.every=4", "--set", "samples.tokens=8"]


class Failure(Exception):
    pass


def environment(fault=None):
    env = {k: v for k, v in os.environ.items() if k != "NIBBLE_FAULT"}
    return env | ({"NIBBLE_FAULT": fault} if fault else {})


def begin(data, output):
    return [NIBBLE, "train", "--config", ROOT / "apps/configs/tiny_int8.jsonnet", "--set", f"data.path={data}",
            *SETTINGS, "--output", output, "--device", DEVICE]


def finish(command):
    done = subprocess.run(command, env=environment(), capture_output=True, timeout=300)
    if done.returncode != 0:
        raise Failure(f"{' '.join(map(str, command))}: exit {done.returncode}: {done.stderr.decode()[-400:]}")


def last_checkpoint(output):
    return sorted((output / "checkpoints").glob("step_*.safetensors"))[-1].read_bytes()


def resume(data, output):
    """As a user would: --resume, or once more from the start when there was nothing yet to resume."""
    begun = (output / "run.json").exists()
    finish([NIBBLE, "train", "--resume", "--output", output, "--device", DEVICE] if begun else begin(data, output))
    left = [p.name for p in (output / "checkpoints").iterdir() if ".tmp." in p.name]
    if left:
        raise Failure(f"temporary files were left: {left}")
    steps = [json.loads(line)["step"] for line in (output / "metrics.jsonl").read_text().splitlines()
             if "loss" in json.loads(line)]
    if steps != sorted(set(steps)):
        raise Failure(f"metrics hold a step twice: {steps}")


def killed_at(data, output, seconds):
    with open(os.devnull, "wb") as nowhere:
        run = subprocess.Popen(begin(data, output), env=environment(), stdout=nowhere, stderr=nowhere)
        time.sleep(seconds)
        run.send_signal(signal.SIGKILL)
        if run.wait() != -signal.SIGKILL:
            raise Failure(f"the run had ended by itself after {seconds:.2f} s: it was not killed")


def killed_inside(data, output, fault):
    done = subprocess.run(begin(data, output), env=environment(fault), capture_output=True, timeout=300)
    if done.returncode != -signal.SIGKILL:
        raise Failure(f"{fault}: exit {done.returncode}, expected SIGKILL: {done.stderr.decode()[-400:]}")
    if not any(".tmp." in p.name for p in (output / "checkpoints").iterdir()):
        raise Failure(f"{fault}: no checkpoint was being written")


def moves(data, output, first, second):
    """Ten steps on one device, the rest on the other: it ends, and says that bits are not kept."""
    finish([*begin(data, output)[:-1], first, "--set", "trainer.steps=9"])
    done = subprocess.run([NIBBLE, "train", "--resume", "--output", output, "--set", "trainer.steps=20", "--device",
                           second], env=environment(), capture_output=True, text=True, timeout=300)
    if done.returncode != 0 or "not bit-exact" not in done.stderr:
        raise Failure(f"from {first} to {second}: exit {done.returncode}: {done.stderr[-400:]}")


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="nibble-kill-"))
    passed = failed = 0

    def check(name, action):
        nonlocal passed, failed
        try:
            action()
            passed += 1
        except (Failure, OSError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"{name}: {error}")
        shutil.rmtree(folder / name, ignore_errors=True)

    try:
        text = folder / "text.txt"
        text.write_bytes((ROOT / "data/text/austen.txt").read_bytes()[:40000])
        data = folder / "tokens"
        finish([NIBBLE, "tokenize", "--input", text, "--output", data, "--val-fraction", "0.1"])
        started = time.monotonic()
        finish(begin(data, folder / "undisturbed"))
        duration = time.monotonic() - started
        expected = last_checkpoint(folder / "undisturbed")
        samples = (folder / "undisturbed/samples.jsonl").read_bytes()

        def same_end(output):
            if last_checkpoint(output) != expected:
                raise Failure("the last checkpoint differs from that of a run never killed")
            if (output / "samples.jsonl").read_bytes() != samples:
                raise Failure("the samples differ from those of a run never killed")

        for threads in (1, 2, 4):
            def at_threads(output=folder / f"threads-{threads}", n=threads):
                finish([*begin(data, output), "--threads", str(n)])
                same_end(output)
            check(f"threads-{threads}", at_threads)
        if ON_GPU:
            for graph in ("on", "off"):
                def with_graph(output=folder / f"graph-{graph}", word=graph):
                    finish([*begin(data, output), "--graph", word])
                    same_end(output)
                check(f"graph-{graph}", with_graph)
            for first, second in (("cpu", DEVICE), (DEVICE, "cpu")):
                def move(output=folder / f"from-{first}", devices=(first, second)):
                    moves(data, output, *devices)
                check(f"from-{first}", move)
        draw = random.Random(SEED)
        for i in range(RANDOM_KILLS):
            def at_random(output=folder / f"random-{i}", share=draw.uniform(0.02, 0.95)):
                seconds = share * duration
                while True:  # on a machine that has become faster the run may end before it is killed
                    try:
                        killed_at(data, output, seconds)
                        break
                    except Failure:
                        shutil.rmtree(output)
                        seconds /= 2
                resume(data, output)
                same_end(output)
            check(f"random-{i}", at_random)
        for fault in FAULTS:
            def inside(output=folder / fault.replace(":", "-"), point=fault):
                killed_inside(data, output, point)
                resume(data, output)
                same_end(output)
            check(fault.replace(":", "-"), inside)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 0 if passed and not failed else 1


if __name__ == "__main__":
    sys.exit(main())
