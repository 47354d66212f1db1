#!/usr/bin/env python3
"""A GPU that is not there, and memory that is short: one clear line, nothing lost. `test_bad_device.py NIBBLE`.

Runs without a GPU in every build: where there is one, it is hidden from the program.
"""
import json
import re

from cli_testing import TrainedCase, main

HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}
# What a build without CUDA says, and one with it.
ABSENT = (r"^device: (this build has no CUDA backend: got cuda:0, expected cpu; use --device cpu, or build with .*"
          r"|no usable GPU: got cuda:0, and CUDA says '.+', expected an NVIDIA GPU of compute capability 9\.0 and its "
          r"driver; use --device cpu)$")


def sizes(text):
    """{"activations": "1.0 MiB", …} of the message's list of what is in use."""
    return dict(re.findall(r"(\w+) ([\d.]+ \w*B)\b", text.split("of them ")[1].split(";")[0]))


class BadDevice(TrainedCase):
    def peak(self, *settings):
        return json.loads(self.ok("inspect", self.config, "--json", *settings))["memory"]["peak"]

    def checkpoint(self, name, step):
        return self.folder / name / f"checkpoints/step_{step:08}.safetensors"

    def losses(self, name):
        rows = map(json.loads, (self.folder / name / "metrics.jsonl").read_text().splitlines())
        return {row["step"]: row["loss"] for row in rows if "loss" in row}

    # The GPU.
    def test_absent(self):
        for command in (("train", "--config", self.config, "--output", self.folder / "none"),
                        ("train", "--config", self.config, "--output", self.folder / "none", "--dry-run"),
                        ("eval", "--checkpoint", self.whole), ("generate", "--checkpoint", self.whole),
                        ("train", "--output", self.whole, "--resume")):
            with self.subTest(command=command[0]):
                self.fails(ABSENT, *command, "--device", "cuda", **HIDDEN)
        self.assertFalse((self.folder / "none").exists())
        self.assertEqual(self.ok("train", "--output", self.whole, "--resume"), "")  # the run is as it was

    def test_absent_is_no_obstacle_to_inspect(self):
        report = json.loads(self.ok("inspect", self.config, "--device", "cuda", "--json", **HIDDEN))
        self.assertEqual(report["fits"]["source"], "assumed")

    # Memory. The limit counts bytes of tensors, and the plan is of the same bytes.
    def test_before_the_first_step(self):
        """The plan can tell: nothing is created."""
        for memory, fit in (("20KiB", "no smaller batch fits; a smaller model might"),
                            (self.peak() - 1, r"[\d.]+ KiB with --set trainer.batch=\d .*")):
            self.fails(r"^allocate: memory is short: got [\d.]+ KiB free of the [\d.]+ KiB of cpu, the plan needs [\d.]+ KiB; "
                       f"what would fit: {fit}$", "train", "--config", self.config, "--output", self.folder / "none",
                       memory=memory)
            self.assertFalse((self.folder / "none").exists())

    def test_in_the_first_step(self):
        """It names what is in use and changes that work; the same folder then trains."""
        big = ["--set", "trainer.batch=32"]
        limit = self.peak(*big)  # kernels take scratch that the plan does not know
        command = ["train", "--config", self.config, "--output", self.folder / "first", *big]
        lines = self.fails(r"^allocate: out of memory on cpu: got [\d.]+ \w*B asked for, expected at most the [\d.]+ \w*B "
                           r"free of [\d.]+ \wiB; in use: [\d.]+ \wiB, of them .*; what would fit: ", *command,
                           memory=limit)
        self.assertLessEqual({"parameters", "moments", "activations", "batch"}, set(sizes(lines[-1])))
        changes = lines[-1].split("what would fit: ")[1].split("; or ")
        self.assertGreaterEqual(len(changes), 2, changes)
        self.assertRegex(changes[0], r"^[\d.]+ \wiB with --set trainer.batch=16 --set trainer.accumulation=2$")
        for i, change in enumerate(changes):
            settings = change.split(" with ")[1].split()
            self.assertLess(self.peak(*big, *settings), limit)
            self.ok("train", "--config", self.config, "--output", self.folder / f"fits{i}", *big, *settings, memory=limit)
        # The folder of the failed run begins again from its own record.
        self.ok("train", "--output", self.folder / "first", "--resume")
        self.ok("train", "--config", self.config, "--output", self.folder / "plain", *big)
        self.assertEqual(self.checkpoint("first", 6).read_bytes(), self.checkpoint("plain", 6).read_bytes())

    def test_after_a_checkpoint(self):
        """A resumed run that has less memory loses nothing, and goes on to the same bytes."""
        run = self.folder / "later"
        self.ok("train", "--config", self.config, "--output", run, "--set", "trainer.steps=2", "--set",
                "trainer.schedule=constant")
        before = self.checkpoint("later", 2).read_bytes()
        resume = ["train", "--output", run, "--resume", "--set", "trainer.steps=6"]
        for told, limit in (("memory is short", self.peak() - 1), ("out of memory on cpu", self.peak())):
            self.fails(fr"^allocate: {told}: .*; what would fit: .*; --resume goes on from step 2, with recomputation or more memory$", *resume, memory=limit)
        self.assertEqual(self.checkpoint("later", 2).read_bytes(), before)
        self.assertEqual([p.name for p in run.glob("checkpoints/*.tmp*")], [])
        self.ok(*resume)
        self.ok("train", "--config", self.config, "--output", self.folder / "straight", "--set",
                "trainer.schedule=constant")
        self.assertEqual(self.losses("later"), self.losses("straight"))

    def test_recomputation_goes_on(self):
        """The changes that keep all bits may be made on resume, and are told."""
        settings = ["--set", "model.layers=4", "--set", "trainer.batch=16"]
        self.ok("train", "--config", self.config, "--output", self.folder / "all", *settings)
        kept = self.peak(*settings)
        blocks = self.peak(*settings, "--set", "model.checkpoint_blocks=true")
        for name, limit in (("some", kept - 100000), ("blocks", blocks + 20000)):
            with self.subTest(limit=name):
                run = self.folder / name
                self.ok("train", "--config", self.config, "--output", run, *settings, "--max-minutes", "1e-9", code=3)
                lines = self.fails(r"model\.(recompute|checkpoint_blocks)=", "train", "--output", run, "--resume",
                                   memory=limit)
                self.assertIn("--resume goes on from step 1", lines[-1])
                change = re.search(r"model\.(recompute|checkpoint_blocks)=\w+", lines[-1])[0]
                self.ok("train", "--output", run, "--resume", "--set", change, memory=limit)
                self.assertEqual(self.losses(name), self.losses("all"))

    def test_other_commands(self):
        for command in (("eval", "--checkpoint", self.whole), ("generate", "--checkpoint", self.whole, "--tokens", 20)):
            with self.subTest(command=command[0]):
                self.fails(r"^allocate: out of memory on cpu: got .*; in use: .*; a smaller batch or", *command,
                           memory="14KiB")
        self.fails(r"^dry-run: memory is short: got 64\.0 KiB, needs .*; what would fit: ", "train", "--config", self.config,
                   "--output", self.folder / "none", "--dry-run", memory="64KiB")
        self.fails(r"^NIBBLE_MEMORY_LIMIT: not a size: got 'much'", "eval", "--checkpoint", self.whole, memory="much")


if __name__ == "__main__":
    main()
