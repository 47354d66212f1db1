#!/usr/bin/env python3
"""Bad input: one clear line, an exit code other than 0, nothing lost. `test_cli_input.py NIBBLE`."""
import gzip
import json
import pathlib
import shutil
import struct

from cli_testing import TEXT, TrainedCase, main, nibble


def shard(path, change):
    """Rewrites the bytes of the first shard of a dataset."""
    file = next(path.glob("train_*.bin"))
    file.write_bytes(change(file.read_bytes()))


class BadInput(TrainedCase):
    def train_fails(self, pattern, *arguments, output="none", **options):
        lines = self.fails(pattern, "train", "--config", self.config, "--output", self.folder / output, *arguments,
                           **options)
        return lines

    def copy(self, source, name):
        shutil.copytree(source, self.folder / name)
        return self.folder / name

    def newest(self, run):
        return max((run / "checkpoints").glob("*.safetensors"))

    # The config.
    def test_configs(self):
        for pattern, setting in (
                (r'config: trainer.step: unknown key; the nearest known one is "steps"', "trainer.step=3"),
                (r'config: modle: unknown key; the nearest known one is "model"', "modle.width=3"),
                (r'config: trainer.lr: got "fast" expected a number', "trainer.lr=fast"),
                (r"config: trainer.steps: got 1.5 expected", "trainer.steps=1.5"),
                (r"config: trainer.batch: got 0 expected at least 1", "trainer.batch=0"),
                (r"config: trainer.batch: got 9999999999 expected at most", "trainer.batch=9999999999"),
                (r'config: model.recompute_blocks: got 2 with recompute "none"', "model.recompute_blocks=2"),
                (r"config: model: got 3 expected an object", "model=3"),
                (r"config: .*no '='|config: .*=", "trainer.lr"),
                (r'optimizer.type: unknown optimizer "adam"; the nearest known one is "adamw"', "optimizer.type=adam"),
                (r'optimizer.beta: unknown key; the nearest known one is "beta1"', "optimizer.beta=0.5"),
                (r"optimizer.beta2: got 1 expected at least 0 and below 1", "optimizer.beta2=1"),
                (r"codec: unknown: got 'int99'", "optimizer.m=int99"),
                (r"schedule.*cosin", "trainer.schedule=cosin"),
                (r"gpt2: .*width 16 and 3 heads", "model.heads=3"),
                (r"gpt2: unknown size: got 'gpt3'", "model.size=gpt3"),
                (r"data.sequence: got 17 tokens, expected at most the context of 16", "data.sequence=17"),
                (r"model.vocab: got 100, expected at least the 257 tokens", "model.vocab=100"),
                (r"recipe: unknown recipe 'int9'; did you mean 'int8'", "recipe=int9"),
                (r"recipe: int8: layer pattern '\*\.c_attn' matches no layer, expected one of blocks\.\*\.attn\.qkv, ",
                 "recipe=int8,layer:*.c_attn=none"),
                (r"recipe: .*scale varies along the contraction", "recipe=none,fprop=int8:col|int8:col|real")):
            with self.subTest(setting=setting):
                self.train_fails(pattern, "--set", setting)
                self.assertFalse((self.folder / "none/run.json").exists())

    def test_config_files(self):
        broken = self.folder / "broken.jsonnet"
        for pattern, text in ((r"config: .*broken.jsonnet:1", "{ trainer: "), (r"config: .*object", "[1]"),
                              (r"config: .*", "{ a: error 'no' }")):
            broken.write_text(text)
            self.train_fails(pattern, "--config", broken)
        self.train_fails(r"config: no such file: \"nowhere.jsonnet\"", "--config", "nowhere.jsonnet")
        self.fails("config: data: missing", "train", "--output", self.folder / "none")

    def test_devices(self):
        self.train_fails(r"device: unknown name: got 'tpu'", "--device", "tpu")
        if "no CUDA" in nibble("train", "--config", self.config, "--output", self.folder / "none", "--device",
                               "cuda", "--dry-run=plan").stderr.decode():
            self.train_fails(r"device: this build has no CUDA backend: got cuda:0", "--device", "cuda")

    # The data.
    def test_text_files(self):
        empty, damaged, lines = (self.folder / name for name in ("empty.txt", "damaged.txt.gz", "bad.jsonl"))
        empty.write_bytes(b"")
        damaged.write_bytes(gzip.compress(TEXT.read_bytes()[:50000])[:-2000])
        lines.write_text('{"text": "fine"}\n{"txet": "wrong"}\n')
        for pattern, name in ((r"nowhere.txt", "nowhere.txt"), (r"empty.txt.*empty", empty),
                              (r"damaged.txt.gz", damaged), (r"bad.jsonl:2|bad.jsonl.*line 2", lines),
                              (r"unknown kind of file", self.config)):
            with self.subTest(name=name):
                self.fails(pattern, "tokenize", "--input", name, "--output", self.folder / "no_tokens")
                self.assertFalse((self.folder / "no_tokens").exists())
        self.fails("not empty", "tokenize", "--input", TEXT, "--output", self.tokens)
        for wrong in (["vocab.bpe", "vocab.bpe"], ["nowhere", "encoder.json"]):
            vocab = [TEXT.parent.parent / "gpt2" / name for name in wrong]
            self.fails("tokenizer: |data: ", "tokenize", "--input", TEXT, "--output", self.folder / "no_tokens",
                       "--tokenizer", "gpt2", "--vocab", *vocab)

    def test_tokenizers(self):
        gpt2 = [TEXT.parent.parent / "gpt2" / name for name in ("vocab.bpe", "encoder.json")]
        only_empty = self.folder / "only_empty.jsonl"
        only_empty.write_text('{"text": ""}\n')
        for pattern, text, *options in (
                (r"--tokenizer bpe needs --vocab-size", TEXT, "--tokenizer", "bpe"),
                (r"--vocab-size belongs to --tokenizer bpe: got byte", TEXT, "--vocab-size", 300),
                (r"--vocab-size belongs to --tokenizer bpe: got gpt2", TEXT, "--vocab-size", 300, "--tokenizer", "gpt2",
                 "--vocab", *gpt2),
                (r"--vocab belongs to --tokenizer gpt2: got bpe", TEXT, "--vocab-size", 300, "--tokenizer", "bpe",
                 "--vocab", *gpt2),
                (r"--vocab belongs to --tokenizer gpt2: got byte", TEXT, "--vocab", *gpt2),
                (r"^bpe: got a vocabulary of 256 tokens expected 257", TEXT, "--tokenizer", "bpe", "--vocab-size", 256),
                (r"^bpe: .* of 1048577 tokens expected", TEXT, "--tokenizer", "bpe", "--vocab-size", 2 ** 20 + 1),
                (r"^bpe: the training text is empty", only_empty, "--tokenizer", "bpe", "--vocab-size", 300),
                (r"the training split is empty", only_empty),
                (r"--tokenizer-from goes without --vocab-size", TEXT, "--tokenizer-from", self.tokens, "--vocab-size", 300),
                (r"cannot open nowhere.tokenizer.json", TEXT, "--tokenizer-from", "nowhere"),
                (r'--save-vocab: the tokenizer "byte" has no vocabulary to save', TEXT, "--save-vocab",
                 self.folder / "vocab"),
                (r"vocab.bpe is there already", TEXT, "--tokenizer", "gpt2", "--vocab", *gpt2, "--save-vocab",
                 gpt2[0].parent)):
            with self.subTest(options=options):
                self.fails(pattern, "tokenize", "--input", text, "--output", self.folder / "no_tokens", *options)
                self.assertFalse((self.folder / "no_tokens").exists())
        for pattern, content in (
                (r"^tokenizer: .*foreign.json: got model WordPiece expected BPE; a byte-level BPE as GPT-2's is supported$",
                 '{"model": {"type": "WordPiece"}}'),
                (r"foreign.json is not a tokenizer.json", '{"model": '), (r'got type "words"', '{"type": "words"}')):
            file = self.folder / "foreign.json"
            file.write_text(content)
            self.fails(pattern, "tokenize", "--input", TEXT, "--output", self.folder / "no_tokens", "--tokenizer", file)
        self.fails(r"nowhere.json", "tokenize", "--input", TEXT, "--output", self.folder / "no_tokens", "--tokenizer",
                   "nowhere.json")
        self.fails(r"--tokenizer: got words expected byte, gpt2, bpe or a file tokenizer.json", "tokenize", "--input",
                   TEXT, "--output", self.folder / "no_tokens", "--tokenizer", "words", code=2)
        self.fails("--tokenizer excludes --tokenizer-from", "tokenize", "--input", TEXT, "--output",
                   self.folder / "no_tokens", "--tokenizer", "gpt2", "--tokenizer-from", self.tokens, code=2)

    def test_imported_shards(self):
        shard, odd, beyond = (self.folder / f"{name}.bin" for name in ("shard", "odd", "beyond"))
        shard.write_bytes(struct.pack("<3H", 1, 2, 3))
        odd.write_bytes(b"abc")
        beyond.write_bytes(struct.pack("<3H", 1, 65, 3))
        llmc = self.tokens / "train_000000.bin"
        for pattern, form, file, *options in (
                (r"--import-shards needs the tokenizer that made the tokens or, .*: got neither", "nanogpt", shard),
                (r"--import-shards needs .*: got both", "nanogpt", shard, "--tokenizer", "byte", "--vocab-size", 65),
                (r"--tokenizer bpe learns from text", "nanogpt", shard, "--tokenizer", "bpe", "--vocab-size", 300),
                (r"--val-fraction is a share of text", "nanogpt", shard, "--vocab-size", 65, "--val-fraction", 0.1),
                (r"got a vocabulary of 0 tokens", "nanogpt", shard, "--vocab-size", 0),
                (r"odd.bin is cut off, or holds no uint16 tokens: got 3 bytes", "nanogpt", odd, "--vocab-size", 65),
                (r"beyond.bin: got token 65 at offset 1 expected less than the vocabulary's 65", "nanogpt", beyond,
                 "--vocab-size", 65),
                (r"train_000000.bin is a token file of llm.c", "nanogpt", llmc, "--vocab-size", 257),
                (r"shard.bin is not a token file", "llm.c", shard, "--vocab-size", 65),
                (r"train_000000.bin: got token \d+ at offset 0 expected less than the vocabulary's 65", "llm.c", llmc,
                 "--vocab-size", 65)):
            with self.subTest(pattern=pattern):
                self.fails(pattern, "tokenize", "--import-shards", form, "--input", file, "--output",
                           self.folder / "no_tokens", *options)
                self.assertFalse((self.folder / "no_tokens").exists())

    def test_odd_text_is_no_error(self):
        odd = self.folder / "odd.txt"
        odd.write_bytes(b"\xff\xfe\x80 and a line of a megabyte: " + b"x" * 2 ** 20 + b"\n\xc3\n")
        self.ok("tokenize", "--input", odd, "--output", self.folder / "odd")
        self.ok("train", "--config", self.config, "--output", self.folder / "odd_run", "--set",
                f"data.path={self.folder}/odd", "--set", "trainer.steps=1")
        # Nor is it in a prompt: the output is UTF-8 in any case (ok() decodes it).
        self.ok("generate", "--checkpoint", self.whole, "--prompt", b"\xff\xc3", "--tokens", 3)

    def test_datasets(self):
        def case(name, change):
            copy = self.copy(self.tokens, name)
            change(copy)
            return ["--set", f"data.path={copy}"]

        def drop(folder):
            next(folder.glob("train_*.bin")).unlink()

        for pattern, arguments in (
                (r"nowhere holds no dataset", ["--set", "data.path=nowhere"]),
                (r"train_000000.bin", case("missing", drop)),
                (r"train_000000.bin.*empty", case("empty", lambda f: shard(f, lambda b: b""))),
                (r"train_000000.bin", case("cut", lambda f: shard(f, lambda b: b[:-100]))),
                (r"train_000000.bin.*(not|magic)", case("foreign", lambda f: shard(f, lambda b: b"PNG!" + b[4:]))),
                (r"dataset", case("garbled", lambda f: (f / "dataset.json").write_text("{")))):
            with self.subTest(arguments=arguments):
                self.train_fails(pattern, *arguments)
                self.assertFalse((self.folder / "none/run.json").exists())
        # What failed to begin blocks nothing.
        self.ok("train", "--config", self.config, "--output", self.folder / "none")
        shutil.rmtree(self.folder / "none")

    def test_tokens_beyond_the_vocabulary(self):
        copy = self.copy(self.tokens, "beyond")
        header = 1024
        shard(copy, lambda b: b[:header] + struct.pack("<H", 300) * ((len(b) - header) // 2))
        self.train_fails(r"train_000000.bin.*300", "--set", f"data.path={copy}", output="beyond_run")

    def test_vocabularies(self):
        gpt2 = [TEXT.parent.parent / "gpt2" / name for name in ("vocab.bpe", "encoder.json")]
        other = self.folder / "gpt2_tokens"
        self.ok("tokenize", "--input", self.folder / "text.txt", "--tokenizer", "gpt2", "--vocab", *gpt2, "--output",
                other, "--val-fraction", 0.2)
        misfit = r"^vocabulary: .*gpt2_tokens does not fit the checkpoint .*: got 50257 tokens, expected 257$"
        self.fails(misfit, "eval", "--checkpoint", self.whole, "--data", other)
        self.fails(misfit, "eval", "--checkpoint", self.whole, "--data", other, "--text", TEXT)
        self.fails(misfit, "generate", "--checkpoint", self.whole, "--data", other)
        self.train_fails(r"know a vocabulary of 257 tokens, expected the 50257", "--init", self.whole, "--set", f"data.path={other}", output="misfit")
        self.fails(r"nowhere.tokenizer.json is not there", "generate", "--checkpoint", self.whole, "--data", "nowhere")
        self.fails(r"^resume: .*other data", "train", "--output", self.whole, "--resume", "--set",
                   f"data.path={other}", "--set", "trainer.steps=8")

    # Tables of plans.
    def test_plans(self):
        bad, table = self.folder / "bad.json", self.folder / "plans.json"
        tune = ("tune", "--config", self.config, "--output", table)
        self.fails(r"tune: plans are measured on a GPU: got --device cpu, expected cuda", *tune, "--device", "cpu")
        if nibble(*tune, "--repeats", 1).returncode:  # no GPU, or none that this build can use
            self.fails(r"^tune: there is no GPU here", *tune)
            self.assertFalse(table.exists())
        self.fails(r"usage: --output is required", "tune", "--config", self.config, code=2)
        for pattern, content in ((r"plans: .*bad.json is no table of plans, or a damaged one", "{"),
                                 (r"plans: .*bad.json: got version 7, expected 1", '{"nibble_plans": 7}')):
            bad.write_text(content)
            self.train_fails(pattern, "--tune", bad)
            self.train_fails(pattern, "--set", f"tune={bad}")
            self.fails(pattern, "eval", "--checkpoint", self.whole, "--tune", bad)
        self.train_fails(r"plans: nowhere.json is not a file; nibble tune writes one", "--tune", "nowhere.json")
        self.assertFalse((self.folder / "none").exists())
        bad.write_text(json.dumps({"nibble_plans": 1, "device": "NVIDIA Z900", "library": 1, "driver": 1, "plans": []}))
        for command in (("train", "--config", self.config, "--output", self.folder / "foreign_plans"),
                        ("eval", "--checkpoint", self.whole)):
            done = nibble(*command, "--tune", bad)
            self.assertEqual(done.returncode, 0, done.stderr)
            told = [line for line in done.stderr.decode().splitlines() if "is ignored: it was measured on" in line]
            self.assertEqual(len(told), 1, done.stderr)

    # The checkpoints.
    def test_checkpoints_that_cannot_be_read(self):
        good = self.newest(self.whole).read_bytes()
        bad = self.folder / "bad.safetensors"
        flipped = bytearray(good)
        flipped[-5] ^= 1
        for pattern, content in ((r"checkpoint: .*(damaged|no checkpoint)", b""),
                                 (r"checkpoint: .*(damaged|truncated|no checkpoint)", good[:-64]),
                                 (r"checkpoint: .*corrupt", bytes(flipped)),
                                 (r"checkpoint: .*(damaged|no checkpoint)", b"hello, world"),
                                 (r"newer version", good.replace(b'\\"version\\":1', b'\\"version\\":9', 1))):
            bad.write_bytes(content)
            self.fails(pattern, "eval", "--checkpoint", bad)
            self.train_fails(pattern, "--init", bad)
            shutil.rmtree(self.folder / "none", ignore_errors=True)
        self.fails("nowhere does not exist", "eval", "--checkpoint", "nowhere")
        self.fails("holds no checkpoint", "eval", "--checkpoint", self.tokens)

    def test_run_records_that_hold_no_run(self):
        run = self.folder / "records"
        run.mkdir()
        for info in ('{"sessions":[{}]}', '{"sessions":[5]}', '{"sessions":5}', '{"sessions":{}}', "[]", "5", "{"):
            (run / "run.json").write_text(info)
            self.fails(r"resume: .* holds no run that could go on", "train", "--resume", "--output", run)

    def test_checkpoints_that_ask_for_more_than_they_hold(self):
        """A million layers in a file of kilobytes: refused, or listed, at once."""
        corpus = pathlib.Path(__file__).resolve().parent / "fuzz/corpus/checkpoint"
        for name in ("layers_many", "state_kinds", "vocab_huge", "width_huge"):
            file = self.folder / f"{name}.safetensors"
            shutil.copy(corpus / name, file)
            nibble("inspect", file, "--stats")
            for arguments in (("inspect", file, "--dump", "wte.weight/m", self.folder / "o.npy"),
                              ("compare", file, "--recipe", "int8", "--recipe", "none", "--data", self.tokens)):
                done = nibble(*arguments)
                self.assertEqual(done.returncode, 1, done.stderr)
                self.assertNotIn(b"json.exception", done.stderr)
        self.fails(r"config: data: got 5 expected an object", "compare", "--config", self.config, "--set", "data=5",
                   "--recipe", "int8", "--recipe", "none", "--data", self.tokens)

    def test_resume_falls_back_to_the_previous_checkpoint(self):
        run = self.copy(self.whole, "damaged_run")
        before = self.newest(run).read_bytes()
        self.newest(run).write_bytes(before[:1000])
        done = nibble("train", "--output", run, "--resume")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr.decode(), r"warning: .*step_00000006.*; trying the one before")
        self.assertEqual(self.newest(run).read_bytes(), before)
        for file in (run / "checkpoints").iterdir():
            file.write_bytes(b"x")
        self.fails("resume: .* holds no intact checkpoint", "train", "--output", run, "--resume")

    def test_a_full_disk(self):
        self.train_fails(r"checkpoint: cannot write .*no space left on device; the previous file is untouched",
                         output="full", fault="rename:4:enospc")
        run = self.folder / "full"
        self.assertFalse(list(run.rglob("*.tmp.*")))
        self.ok("train", "--output", run, "--resume")
        self.assertEqual(self.newest(run).read_bytes(), self.newest(self.whole).read_bytes())

    # The run's folder.
    def test_output_folders(self):
        before = {p: p.stat().st_mtime_ns for p in self.whole.rglob("*") if p.is_file() and p.name != "lock"}
        self.train_fails(r"run: .*whole already holds a run; resume it with --resume", output="whole")
        self.assertEqual(before, {p: p.stat().st_mtime_ns for p in before})
        self.fails(r"resume: .*nowhere holds no run", "train", "--output", self.folder / "nowhere", "--resume")
        (self.folder / "file").write_text("")
        self.train_fails(r"run: cannot make .*file", output="file/below")

    def test_a_resume_with_another_config_names_the_key(self):
        for pattern, setting in ((r"resume: trainer.lr: got 0.5, expected 0.001", "trainer.lr=0.5"),
                                 (r'resume: recipe: got "int8", expected "none"', "recipe=int8"),
                                 (r'resume: optimizer.type: got "sgd", expected "adamw"', "optimizer.type=sgd"),
                                 (r"resume: model.width: got 32, expected 16", "model.width=32")):
            self.train_fails(pattern, "--resume", "--set", setting, output="whole")
        self.ok("train", "--config", self.config, "--output", self.copy(self.whole, "longer"), "--resume", "--set",
                "trainer.steps=8", "--set", "trainer.keep=1", "--set", "trainer.eval_every=4")
        steps = sorted(p.name for p in (self.folder / "longer/checkpoints").iterdir())
        self.assertEqual(steps, ["step_00000008.safetensors"])

    def test_two_processes_never_share_a_run(self):
        import subprocess
        import sys
        first = subprocess.Popen([sys.argv[1], "train", "--config", self.config, "--output", self.folder / "held",
                                  "--set", "trainer.steps=1000000"], stderr=subprocess.DEVNULL)
        try:
            metrics = self.folder / "held/metrics.jsonl"
            while first.poll() is None and not (metrics.exists() and metrics.stat().st_size):
                pass
            self.fails(r"run: .*(in use|process)", "train", "--output", self.folder / "held", "--resume")
            first.terminate()
            self.assertEqual(first.wait(60), 4)  # stopped by a signal, with a checkpoint
        finally:
            first.kill()
            first.wait()
        last = json.loads(metrics.read_text().splitlines()[-1])["step"]
        self.assertGreaterEqual(int(self.newest(self.folder / "held").name[5:13]), last)

    def test_weights_that_are_not_finite(self):
        lines = self.train_fails(r"train: step \d+: the loss is .*(nan|inf)", "--set", "trainer.lr=1e30", "--set",
                                 "trainer.warmup=0", "--set", "trainer.clip=0", output="nan")
        self.assertIn("checkpoint", lines[-1])


if __name__ == "__main__":
    main()
