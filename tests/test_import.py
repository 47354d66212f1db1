#!/usr/bin/env python3
"""GPT-2 from Hugging Face's form: `test_import.py NIBBLE`."""
import json
import shutil
import struct

from cli_testing import TEXT, main, write_config
from hf_testing import GOLDEN, Folders, bare, weights, write_tensors

MODEL = {"layers": 2, "heads": 4, "width": 16, "context": 24, "gelu": "erf", "norm_epsilon": 1e-3}


class Import(Folders):
    def test_every_form_of_the_same_weights_gives_the_same_bytes(self):
        expected = weights(self.imported)
        self.assertEqual(self.read(self.copy(bare(self.tensors))), expected)
        head = {"lm_head.weight": self.tensors["transformer.wte.weight"]}
        self.assertEqual(self.read(self.copy(self.tensors | head)), expected)
        masks = {"h.0.attn.bias": ("BOOL", [1, 1, 24, 24], bytes(576)), "h.1.attn.masked_bias": ("F32", [], bytes(4))}
        self.assertEqual(self.read(self.copy(bare(self.tensors) | masks)), expected)
        old = self.copy(n_positions="absent", n_ctx=24)
        self.assertEqual(self.read(old), expected)

    def shards(self):
        folder = self.copy()
        (folder / "model.safetensors").unlink()
        names = sorted(self.tensors)
        files = {"model-00001-of-00002.safetensors": names[:9], "model-00002-of-00002.safetensors": names[9:]}
        for file, part in files.items():
            write_tensors(folder / file, {name: self.tensors[name] for name in part})
        index = {"metadata": {}, "weight_map": {name: file for file, part in files.items() for name in part}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return folder, index

    def test_shards(self):
        folder, _ = self.shards()
        self.assertEqual(self.read(folder), weights(self.imported))

    def test_bad_shards(self):
        folder, index = self.shards()
        (folder / "model-00002-of-00002.safetensors").unlink()
        self.refuse("the shard model-00002-of-00002.safetensors is not there", folder)
        for pattern, change in (
                ("'x' is not in .*model-00001", {"x": "model-00001-of-00002.safetensors"}),
                ("the shard a{200} is not there", {"x": "a" * 300}),
                ('\'x\': got "../other.safetensors", expected the name of a file beside it',
                 {"x": "../other.safetensors"}),
                ("'x': got 3, expected the name", {"x": 3})):
            with self.subTest(change=change):
                folder, index = self.shards()
                index["weight_map"] |= change
                (folder / "model.safetensors.index.json").write_text(json.dumps(index))
                self.refuse(pattern, folder)
        (folder / "model.safetensors.index.json").write_text("[]")
        self.refuse("index.json: expected a JSON object", folder)

    def test_an_untied_head_is_kept(self):
        dtype, shape, data = self.tensors["transformer.wte.weight"]
        head = {"lm_head.weight": (dtype, shape, bytes(len(data)))}
        read = self.read(self.copy(self.tensors | head, tie_word_embeddings=False))
        self.assertEqual(read["lm_head.weight"], head["lm_head.weight"])
        self.refuse("'lm_head.weight' differs from 'wte.weight', while config.json ties", self.copy(self.tensors | head))
        self.refuse("holds no tensor 'lm_head.weight'", self.copy(tie_word_embeddings=False))

    def test_bf16(self):
        halves = {name: ("BF16", shape, b"".join(data[i + 2:i + 4] for i in range(0, len(data), 4)))
                  for name, (_, shape, data) in self.tensors.items()}
        _, _, data = self.read(self.copy(halves))["wte.weight"]
        _, _, exact = self.tensors["transformer.wte.weight"]
        self.assertEqual(data, b"".join(b"\0\0" + exact[i + 2:i + 4] for i in range(0, len(exact), 4)))

    def test_vocab_and_merges_are_the_same_tokenizer(self):
        folder = self.copy()
        model = json.loads((folder / "tokenizer.json").read_text())["model"]
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
        self.read(folder)
        self.assertEqual((folder / "out/tokenizer.json").read_bytes(), (self.imported / "tokenizer.json").read_bytes())

    def test_without_a_tokenizer(self):
        folder = self.copy()
        (folder / "tokenizer.json").unlink()
        self.read(folder)
        self.fails("imported without their tokenizer", "generate", "--checkpoint", folder / "out", "--prompt", "a")

    def test_eval_generate_and_train_go_on_from_it(self):
        text = self.folder / "part.txt"
        text.write_bytes(TEXT.read_bytes()[:4000])
        tokens = self.folder / "tokens"
        self.ok("tokenize", "--input", text, "--output", tokens, "--tokenizer", self.imported / "tokenizer.json",
                "--val-fraction", 0.5)
        self.ok("generate", "--checkpoint", self.imported, "--prompt", "It is", "--tokens", 30)
        loss = json.loads(self.ok("eval", "--checkpoint", self.imported, "--data", tokens, "--json"))["loss"]
        self.ok("eval", "--checkpoint", self.imported, "--text", text)
        self.fails("was imported and knows no dataset; --data", "eval", "--checkpoint", self.imported)
        config = write_config(self.folder / "go_on.jsonnet", {
            "model": MODEL, "data": {"path": str(tokens)},
            "trainer": {"steps": 2, "batch": 2, "eval_every": 0, "warmup": 1, "log_every": 1}})
        run = self.folder / "go_on"
        self.ok("train", "--config", config, "--output", run, "--init", self.imported)
        begin = run / "checkpoints/step_00000000.safetensors"
        self.assertEqual(json.loads(self.ok("eval", "--checkpoint", begin, "--json"))["loss"], loss)

    # What is refused.
    def test_bad_configs(self):
        for pattern, config in (
                ('model_type: got "llama", expected "gpt2"', {"model_type": "llama"}),
                ('activation_function: got "relu", expected "gelu_new" or "gelu"', {"activation_function": "relu"}),
                ("n_inner: got 48, expected 64", {"n_inner": 48}),
                ("scale_attn_by_inverse_layer_idx: got true, expected false",
                 {"scale_attn_by_inverse_layer_idx": True}),
                ("n_layer: got null, expected an integer", {"n_layer": "absent"}),
                ("n_embd: got 1.5, expected an integer", {"n_embd": 1.5}),
                ("n_head: got -1, expected an integer", {"n_head": -1}),
                ("n_layer: got 16000000, while there are 28 tensors", {"n_layer": 16000000}),
                ("layer_norm_epsilon: got \"x\", expected a number", {"layer_norm_epsilon": "x"}),
                ("vocab_size: got 100, expected at least the 288 tokens", {"vocab_size": 100}),
                ("tie_word_embeddings: got 1, expected true or false", {"tie_word_embeddings": 1})):
            with self.subTest(config=config):
                self.refuse(pattern, self.copy(**config))
        folder = self.copy(n_head=3)
        self.fails("gpt2: got width 16 and 3 heads", "import", folder, "--output", folder / "out")
        (folder / "config.json").write_text("{")
        self.refuse("config.json: expected a JSON object", folder)
        (folder / "config.json").unlink()
        self.refuse("config.json is not there", folder)

    def test_bad_tensors(self):
        name, other = "transformer.h.1.ln_2.bias", "transformer.h.1.ln_2.bais"
        renamed = {other if n == name else n: t for n, t in self.tensors.items()}
        self.refuse(f"no tensor '{name}'; the nearest that is there is '{other}'", self.copy(renamed))
        missing = {n: t for n, t in self.tensors.items() if n != name}
        self.refuse(f"no tensor '{name}'$", self.copy(missing))
        extra = self.tensors | {other: self.tensors[name]}
        self.refuse(f"'{other}', which this GPT-2 does not have; the nearest that it has is '{name}'", self.copy(extra))
        twice = self.tensors | {name.removeprefix("transformer."): self.tensors[name]}
        self.refuse("'h.1.ln_2.bias' comes twice", self.copy(twice))
        attn = "transformer.h.0.attn.c_attn.weight"
        dtype, shape, data = self.tensors[attn]
        self.refuse(r"c_attn.weight' has shape \[48, 16\], expected \[16, 48\]",
                    self.copy(self.tensors | {attn: (dtype, shape[::-1], data)}))
        self.refuse("c_attn.weight' is i32, expected f32 or bf16", self.copy(self.tensors | {attn: ("I32", shape, data)}))
        for pattern, change in (("has dtype F16, which is not supported", ("F16", shape, data[:len(data) // 2])),
                                ("has 3072 bytes, expected", (dtype, [16, 47], data))):
            folder = self.copy(self.tensors | {attn: change})
            self.fails("safetensors: .*c_attn.weight' " + pattern, "import", folder, "--output", folder / "out")

    def test_bad_files(self):
        folder = self.copy()
        file = folder / "model.safetensors"
        whole = file.read_bytes()
        file.write_bytes(struct.pack("<Q", 1 << 60) + whole[8:])
        self.fails("safetensors: .*a header of 1152921504606846976 bytes", "import", folder, "--output", folder / "out")
        file.write_bytes(whole[:-1])
        self.fails("safetensors: .*truncated", "import", folder, "--output", folder / "out")
        file.unlink()
        self.refuse("holds neither model.safetensors nor model.safetensors.index.json", folder)
        self.fails("import: .*nowhere/config.json is not there", "import", folder / "nowhere", "--output", folder / "o")

    def test_the_output_is_new_or_empty(self):
        before = weights(self.imported)
        self.fails("^import: .* is not empty", "import", GOLDEN, "--output", self.imported)
        self.assertEqual(weights(self.imported), before)

    def test_a_full_disk_leaves_nothing(self):
        out = self.folder / "full"
        self.fails("no space left", "import", GOLDEN, "--output", out, fault="write:2:enospc")
        self.assertFalse(out.exists())

if __name__ == "__main__":
    main()
