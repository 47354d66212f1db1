#!/usr/bin/env python3
"""The commands of the built program: `test_cli.py NIBBLE`."""
import array
import json
import pathlib
import re
import subprocess
import sys
import unittest

from cli_testing import SMALL, TEXT, TrainedCase, main, nibble, write_config

GPT2 = TEXT.parent.parent / "gpt2"
GOLDEN = pathlib.Path(__file__).resolve().parent / "golden"


class Commands(TrainedCase):
    def train(self, name, *arguments, **options):
        return self.ok("train", "--config", self.config, "--output", self.folder / name, *arguments, **options)

    def checkpoint(self, name, step):
        return self.folder / name / "checkpoints" / f"step_{step:08}.safetensors"

    # The program.
    def test_version_and_help(self):
        self.assertRegex(self.ok("--version"), r"^nibble \d+\.\d+\.\d+ \(commit ")
        for command in ("tokenize", "train", "eval", "generate", "recipes", "import", "export"):
            self.assertIn(command, self.ok("--help"))
            self.assertIn("Usage: nibble " + command, self.ok(command, "--help"))
        self.assertRegex(self.ok("--help"), r"(?s)0 ok.*1 error.*2 .*3 time limit.*4 stopped")

    def test_wrong_command_lines(self):
        for pattern, arguments in (
                ("usage: no command", []),
                ('unknown command "trian"; the nearest known one is "train"', ["trian"]),
                ("--output is required", ["train"]),
                ("not expected: .*--outptu", ["train", "--output", "x", "--outptu", "y"]),
                ("--threads: .* not in range", ["train", "--output", "x", "--threads", "0"]),
                ("--max-minutes", ["train", "--output", "x", "--max-minutes", "soon"]),
                ("--dry-run", ["train", "--output", "x", "--dry-run=perhaps"]),
                ("--init excludes --resume|--resume excludes --init",
                 ["train", "--output", "x", "--resume", "--init", "y"]),
                ("--split: test not in", ["eval", "--checkpoint", "x", "--split", "test"]),
                ("--temperature: .* not in range", ["generate", "--checkpoint", "x", "--temperature", "-1"])):
            with self.subTest(arguments=arguments):
                self.fails(pattern, *arguments, code=2)

    def test_a_full_standard_output_is_an_error(self):
        for command in ("recipes", "--version"):
            with open("/dev/full", "wb") as full:
                done = subprocess.run([sys.argv[1], command], stdout=full, stderr=subprocess.PIPE)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, rb"^nibble: error: .*cannot write.*\n$")

    def test_recipes(self):
        lines = self.ok("recipes").splitlines()
        named = dict(line.split(None, 1) for line in lines)
        self.assertGreater(len(named), 40)
        self.assertRegex(named["int8"], r"fprop int8.* × int8.* real  dgrad .*  wgrad .*  m dyn8.*  v dynu8")
        self.assertEqual(named["none"], "everything in full precision")
        configs = TEXT.parent.parent.parent / "apps/configs/study"
        for file in configs.glob("*.jsonnet"):
            recipe = re.search(r"recipe: '(\w+)'", file.read_text())
            self.assertTrue(file.name == "base.jsonnet" or recipe.group(1) in named, file)

    # tokenize
    def test_tokenize_gpt2(self):
        out = self.ok("tokenize", "--input", self.folder / "text.txt", "--tokenizer", "gpt2", "--vocab",
                      GPT2 / "vocab.bpe", GPT2 / "encoder.json", "--output", self.folder / "gpt2", "--threads", 2)
        self.assertRegex(out, r"tokenizer gpt2, 50257 words\ntrain: \d+ tokens, 1 documents, 20000 bytes of text")
        self.assertNotIn("val:", out)
        self.fails("needs --vocab with its two files", "tokenize", "--input", TEXT, "--tokenizer", "gpt2", "--output",
                   self.folder / "none")

    def test_tokenize_val_input(self):
        out = self.ok("tokenize", "--input", self.folder / "text.txt", "--val-input", self.folder / "text.txt",
                      "--output", self.folder / "twice")
        self.assertEqual(*re.findall(r"(\d+) tokens", out))

    def test_a_vocabulary_of_ones_own(self):
        own, text = self.folder / "own", self.folder / "text.txt"
        out = self.ok("tokenize", "--input", text, "--val-fraction", 0.2, "--tokenizer", "bpe", "--vocab-size", 400,
                      "--output", own, "--save-vocab", own)
        self.assertRegex(out, r"tokenizer bpe, 400 words\ntrain: \d+ tokens.*\nval: \d+ tokens")
        # Learned from the training part, and the same with its two files or from the dataset.
        head = self.folder / "head.txt"
        head.write_bytes(text.read_bytes()[:json.loads((own / "dataset.json").read_text())["train"]["text_bytes"]])
        for name, tokenizer in (("again", ("bpe", "--vocab-size", 400)),
                                ("files", ("gpt2", "--vocab", own / "vocab.bpe", own / "encoder.json")),
                                ("described", (own / "tokenizer.json",)),
                                ("reused", None)):
            options = ("--tokenizer", *tokenizer) if tokenizer else ("--tokenizer-from", own)
            self.ok("tokenize", "--input", head, "--output", self.folder / name, *options, "--save-vocab",
                    self.folder / f"{name}_vocab")
            for file in ("train_000000.bin", "../own/vocab.bpe", "../own/encoder.json"):
                copy = self.folder / (name if file.endswith(".bin") else f"{name}_vocab") / pathlib.Path(file).name
                self.assertEqual(copy.read_bytes(), (own / file).read_bytes())
        config = write_config(self.folder / "own.jsonnet", SMALL | {"data": {"path": str(own)}})
        run = self.folder / "own_run"
        self.ok("train", "--config", config, "--output", run)
        self.assertRegex(self.ok("eval", "--checkpoint", run), "bits")
        self.assertTrue(self.ok("generate", "--checkpoint", run, "--prompt", "It was", "--tokens", 5).startswith("It was"))

    def test_a_tokenizer_of_hugging_face(self):
        golden = json.loads((GOLDEN / "hf_tokenizer.json").read_text())
        text, file = self.folder / "hf.jsonl", self.folder / "hf.json"
        file.write_text(json.dumps(golden["tokenizer"]))
        text.write_text("".join(json.dumps({"text": case["text"]}) + "\n" for case in golden["cases"]))
        self.ok("tokenize", "--input", text, "--output", self.folder / "hf", "--tokenizer", file)
        tokens = array.array("H", (self.folder / "hf/train_000000.bin").read_bytes()[1024:]).tolist()
        self.assertEqual(tokens, [token for case in golden["cases"] for token in [1, *case["ids"]]])

    def test_shards_of_nanogpt(self):
        files = [self.folder / f"nano_{split}.bin" for split in ("train", "val")]
        for file, count in zip(files, (4000, 400)):
            array.array("H", (i * i % 65 for i in range(count))).tofile(file.open("wb"))
        nano, run = self.folder / "nano", self.folder / "nano_run"
        out = self.ok("tokenize", "--import-shards", "nanogpt", "--input", files[0], "--val-input", files[1],
                      "--vocab-size", 65, "--output", nano)
        self.assertRegex(out, r"tokenizer unknown, 65 words\ntrain: 4000 tokens.*\nval: 400 tokens")
        config = write_config(self.folder / "nano.jsonnet", SMALL | {"data": {"path": str(nano)}})
        self.ok("train", "--config", config, "--output", run)
        self.assertRegex(self.ok("eval", "--checkpoint", run), r"perplexity \d+\.\d+ \(399 tokens, 0 bytes\)")
        self.fails("imported without their tokenizer", "generate", "--checkpoint", run)
        self.fails("train: samples.prompts: .* was imported without its tokenizer", "train", "--config", config, "--set",
                   'samples.prompts=[""]', "--output", self.folder / "nano_samples")
        self.assertFalse((self.folder / "nano_samples").exists())
        # Nibble's shards are llm.c's.
        self.ok("tokenize", "--import-shards", "llm.c", "--input", self.tokens / "train_000000.bin", "--val-input",
                self.tokens / "val_000000.bin", "--tokenizer-from", self.tokens, "--output", self.folder / "llmc")
        for file in ("dataset.json", "tokenizer.json", "train_000000.bin"):
            self.assertEqual((self.folder / "llmc" / file).read_bytes(), (self.tokens / file).read_bytes())

    def test_a_vocabulary_smaller_than_asked_for(self):
        text = self.folder / "short.txt"
        text.write_text("abc abc abc")
        done = nibble("tokenize", "--input", text, "--tokenizer", "bpe", "--vocab-size", 300, "--output",
                      self.folder / "short")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stderr.decode(), r"warning: 260 tokens learned, not 300: no pair of them occurs twice")

    # train
    def test_a_run_leaves_what_it_should(self):
        steps = [int(p.name[5:13]) for p in sorted((self.whole / "checkpoints").iterdir())]
        self.assertEqual(steps[-3:], [2, 4, 6])
        rows = [json.loads(line) for line in (self.whole / "metrics.jsonl").read_text().splitlines()]
        self.assertEqual([row["step"] for row in rows if "loss" in row], [1, 2, 3, 4, 5, 6])
        session = json.loads((self.whole / "run.json").read_text())["sessions"][0]
        self.assertEqual(session["config"]["optimizer"]["beta2"], 0.95)  # defaults are recorded
        self.assertIn("--config", session["command"])

    def test_set_overrides_the_files(self):
        self.train("set", "--set", "trainer.steps=2", "--set", "recipe=int8", "--set", "trainer.seed=5")
        config = json.loads((self.folder / "set/run.json").read_text())["sessions"][0]["config"]
        self.assertEqual((config["trainer"]["steps"], config["recipe"], config["trainer"]["seed"]), (2, "int8", 5))

    def test_configs_compose_and_are_found_by_name(self):
        self.ok("train", "--config", "tiny_int8.jsonnet,optim/wsd.jsonnet", "--config", self.config, "--output",
                self.folder / "composed", "--set", "trainer.steps=2", "--set", "trainer.decay=1")
        config = json.loads((self.folder / "composed/run.json").read_text())["sessions"][0]["config"]
        # An object without `+:` replaces the one before, as in Jsonnet.
        self.assertEqual((config["recipe"], config["trainer"]["schedule"]), ("int8", "cosine"))

    def test_every_shipped_config_works(self):
        configs = TEXT.parent.parent.parent / "apps/configs"
        files = sorted(str(p.relative_to(configs)) for p in configs.rglob("*.jsonnet"))
        self.assertGreater(len(files), 50)
        tiny = [f"model.{name}={value}" for name, value in (("layers", 1), ("heads", 2), ("width", 32), ("context", 16))]
        for file in files:
            is_piece = "/" in file and file != "study/base.jsonnet"
            with self.subTest(file=file):
                self.ok("train", "--config", f"quickstart.jsonnet,{file}" if is_piece else file, "--dry-run=plan",
                        *(word for setting in [*tiny, "trainer.batch=2", f"data.path={self.tokens}"]
                          for word in ("--set", setting)), "--output", self.folder / "dry")

    def test_resume_takes_the_recorded_config(self):
        self.train("cut", "--set", "trainer.steps=2")
        self.ok("train", "--output", self.folder / "cut", "--resume", "--set", "trainer.steps=6")
        a, b = self.checkpoint("cut", 6).read_bytes(), self.checkpoint("whole", 6).read_bytes()
        # The cosine's end differs, so only form and length agree: two steps were made for another schedule.
        self.assertEqual(len(a), len(b))

    def test_resume_may_save_more_or_less(self):
        """What a recipe keeps, makes again or fuses has the same bits; what it quantizes has not."""
        def losses(name):
            rows = map(json.loads, (self.folder / name / "metrics.jsonl").read_text().splitlines())
            return [row["loss"] for row in rows if "loss" in row]
        self.train("saved", "--set", "recipe=int8")
        self.train("kept", "--set", "recipe=int8", "--max-minutes", "1e-9", code=3)
        resume = ["train", "--output", self.folder / "kept", "--resume", "--set"]
        for recipe in ("int8,save=encoded,fprop=none", "int8_rowwise", "int8,layer:*.mlp.fc1=none", "int8,layer:lm_head=int8",
                       "int8,layer:*=int8", "int8,weights=bf16"):
            self.fails(r'^resume: recipe: got "int8.*, expected "int8"', *resume, f"recipe={recipe}")
        # Without lm_head nobody takes targets out.
        self.ok(*resume, "recipe=int8,save=encoded,fuse=off,target=encoded", "--max-minutes", "1e-9", code=3)
        self.ok(*resume, "recipe=int8,layer:*.mlp.fc1/output=recompute")
        self.assertEqual(losses("kept"), losses("saved"))
        self.train("head", "--set", "recipe=int8,lm_head=on", "--max-minutes", "1e-9", code=3)
        self.fails(r'^resume: recipe: got "int8,target=encoded,lm_head=on", expected "int8,lm_head=on"', "train", "--output",
                   self.folder / "head", "--resume", "--set", "recipe=int8,lm_head=on,target=encoded")

    def test_the_time_limit_stops_with_a_checkpoint_and_resumes_exactly(self):
        self.train("late", "--max-minutes", "1e-9", code=3)
        self.assertTrue(self.checkpoint("late", 1).exists())
        self.train("late", "--resume")
        self.assertEqual(self.checkpoint("late", 6).read_bytes(), self.checkpoint("whole", 6).read_bytes())

    def test_a_kill_before_the_first_checkpoint(self):
        self.train("early", fault="rename:2", code=-9)
        self.assertFalse(list((self.folder / "early/checkpoints").glob("*.safetensors")))
        self.ok("train", "--output", self.folder / "early", "--resume")
        self.assertEqual(self.checkpoint("early", 6).read_bytes(), self.checkpoint("whole", 6).read_bytes())

    def test_init_takes_weights_and_survives_a_resume(self):
        self.train("warm", "--init", self.whole)
        first = json.loads((self.folder / "warm/metrics.jsonl").read_text().splitlines()[0])
        cold = json.loads((self.whole / "metrics.jsonl").read_text().splitlines()[0])
        self.assertLess(first["loss"], cold["loss"])
        self.train("warm2", "--init", self.whole, fault="rename:3", code=-9)  # while saving step 2
        self.ok("train", "--output", self.folder / "warm2", "--resume")
        self.assertEqual(self.checkpoint("warm2", 6).read_bytes(), self.checkpoint("warm", 6).read_bytes())

    def test_threads_do_not_change_the_bytes(self):
        self.train("three", "--threads", 3)
        self.assertEqual(self.checkpoint("three", 6).read_bytes(), self.checkpoint("whole", 6).read_bytes())

    # --dry-run
    def test_dry_run_tells_and_leaves_nothing(self):
        out = self.train("dry", "--dry-run")
        self.assertRegex(out, r"memory: .* = parameters .* gradients .* moments .* activations .* available\n")
        self.assertRegex(out, r"disk: .* a checkpoint; 10 kept and one in writing .* free\n")
        self.assertRegex(out, r"time: .* tokens/s; 6 steps take")
        self.assertNotIn("time:", self.train("dry", "--dry-run=plan"))
        self.assertFalse((self.folder / "dry").exists())

    def test_dry_run_is_right_about_disk_and_memory(self):
        model = ["--set", "model.width=256", "--set", "model.heads=4", "--set", "trainer.steps=2"]
        out = self.train("big", *model, "--dry-run=plan")
        self.train("big", *model)
        mib = 2 ** 20
        planned = float(re.search(r"disk: ([\d.]+) MiB a checkpoint", out).group(1))
        self.assertAlmostEqual(planned, self.checkpoint("big", 2).stat().st_size / mib, delta=1)
        rows = [json.loads(line) for line in (self.folder / "big/metrics.jsonl").read_text().splitlines()]
        peak = max(row.get("memory_peak", 0) for row in rows) / mib
        planned = float(re.search(r"memory: ([\d.]+) MiB", out).group(1))
        self.assertAlmostEqual(planned, peak, delta=0.1 * peak + 1)

    def test_dry_run_says_what_would_fit(self):
        lines = self.fails(
            r"^dry-run: memory is short: got .*, needs .*; what would fit: ", "train", "--config", self.config,
            "--output", self.folder / "huge", "--dry-run", "--set", "model.context=1048576", "--set",
            "data.sequence=1048576", "--set", "model.width=256", "--set", "model.layers=48",
            "--set", "trainer.batch=1024")
        self.assertRegex(lines[-1], r"--set trainer.batch=\d+ --set trainer.accumulation=\d+|no smaller batch fits")

    # eval, generate
    def test_eval(self):
        out = self.ok("eval", "--checkpoint", self.whole)
        found = re.fullmatch(r"val: loss ([\d.]+) nats a token, perplexity [\d.]+, (\d\.\d{4}) bits a byte .*\n", out)
        self.assertTrue(found, out)
        data = json.loads(self.ok("eval", "--checkpoint", self.checkpoint("whole", 6), "--json"))
        self.assertAlmostEqual(data["loss"], float(found.group(1)), places=3)
        self.assertEqual((data["step"], data["tokens"]), (6, data["text_bytes"]))
        # A text in place of a split, and other windows.
        text = self.ok("eval", "--checkpoint", self.whole, "--text", self.folder / "text.txt", "--batch", 3)
        self.assertIn("(20000 tokens, 20000 bytes)", text)
        short = json.loads(self.ok("eval", "--checkpoint", self.whole, "--sequence", 4, "--json"))
        self.assertEqual(short["tokens"], data["tokens"])

    def test_eval_by_stratum(self):
        lines = [json.dumps({"text": "It is a truth universally acknowledged. " * 5, "source": source})
                 for source in ("novel", "letter", "novel")]
        (self.folder / "strata.jsonl").write_text("\n".join(lines) + "\n")
        self.ok("tokenize", "--input", self.folder / "text.txt", "--val-input", self.folder / "strata.jsonl",
                "--output", self.folder / "strata")
        out = self.ok("eval", "--checkpoint", self.whole, "--data", self.folder / "strata").splitlines()
        self.assertEqual([line.split(":")[0] for line in out], ["val/letter", "val/novel", "val"])
        data = json.loads(self.ok("eval", "--checkpoint", self.whole, "--data", self.folder / "strata", "--json"))
        self.assertEqual(set(data["strata"]), {"novel", "letter"})

    def test_generate(self):
        command = ["generate", "--checkpoint", self.whole, "--prompt", "It is", "--tokens", 40]
        one = self.ok(*command)  # longer than the context, and decoded: it is UTF-8
        self.assertTrue(one.startswith("It is"))
        self.assertEqual(one, self.ok(*command))
        self.assertNotEqual(one, self.ok(*command, "--seed", 2))
        greedy = self.ok(*command, "--greedy")
        self.assertEqual(greedy, self.ok(*command, "--greedy", "--seed", 2))
        self.assertEqual(greedy, self.ok(*command, "--top-k", 1))
        self.assertEqual(greedy, self.ok(*command, "--temperature", 0))
        self.assertEqual(greedy, self.ok(*command, "--temperature", 0, "--no-cache", "--threads", 1))
        self.assertEqual(self.ok("generate", "--checkpoint", self.whole, "--tokens", 0), "\n")

    def test_generate_under_another_recipe(self):
        command = ["generate", "--checkpoint", self.whole, "--prompt", "It is", "--tokens", 20, "--greedy"]
        for recipe in ("int8", "int8,weights=int8", "w8a8g8", "fp8_rowwise"):
            text = self.ok(*command, "--recipe", recipe)
            self.assertTrue(text.startswith("It is"))
            self.assertEqual(text, self.ok(*command, "--recipe", recipe))
        self.fails('recipe: .*"int9"|recipe: .*int9', *command, "--recipe", "int9")
        for option in ("--recipe", "--no-cache", "0: greedy"):
            self.assertIn(option, self.ok("generate", "--help"))

    def test_samples(self):
        self.train("samples", "--set", 'samples.prompts=["It was",""]', "--set", "samples.tokens=8", "--set",
                   "samples.every=4", "--set", "samples.temperature=0.5")
        rows = [json.loads(line) for line in (self.folder / "samples/samples.jsonl").read_bytes().splitlines()]
        self.assertEqual([(row["step"], row["prompt"]) for row in rows],
                         [(4, "It was"), (4, ""), (6, "It was"), (6, "")])
        # The last one is what generate draws.
        text = self.ok("generate", "--checkpoint", self.folder / "samples", "--prompt", "It was", "--tokens", 8,
                       "--temperature", 0.5)
        self.assertEqual(text, "It was" + rows[2]["text"] + "\n")
        # They may change on the way.
        self.ok("train", "--output", self.folder / "samples", "--resume", "--set", "samples.prompts=[]", "--set",
                "trainer.steps=7")
        self.assertEqual(len((self.folder / "samples/samples.jsonl").read_bytes().splitlines()), 4)
        html = self.folder / "samples.html"
        self.ok("report", self.folder / "samples", "--output", html)
        self.assertIn("<h2>Samples</h2>", html.read_text())

    def test_generate_ends_with_the_text(self):
        # One byte a document: after it comes the end.
        (self.folder / "ends.jsonl").write_text('{"text": "a"}\n' * 2000)
        self.ok("tokenize", "--input", self.folder / "ends.jsonl", "--output", self.folder / "ends")
        self.train("end", "--set", f"data.path={self.folder}/ends", "--set", "trainer.lr=0.01", "--set",
                   "trainer.steps=200", "--set", "trainer.checkpoint_every=0")
        self.assertEqual(self.ok("generate", "--checkpoint", self.folder / "end", "--greedy"), "a\n")


if __name__ == "__main__":
    main()
