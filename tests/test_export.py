#!/usr/bin/env python3
"""GPT-2 to Hugging Face's form: `test_export.py NIBBLE`. With torch and transformers, what they make of it too."""
import json
import shutil
import unittest

from cli_testing import SMALL, main, make_tokens, nibble, write_config
from hf_testing import GOLDEN, Folders, read_tensors, weights

try:
    import torch
    import transformers
except ImportError:
    transformers = None


class Export(Folders):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.tokens = make_tokens(cls.folder, 4000)
        # A head of its own, weights stored as codes.
        model = SMALL["model"] | {"tie_embeddings": False}
        cls.config = write_config(cls.folder / "small.jsonnet", SMALL | {
            "model": model, "data": {"path": str(cls.tokens)}, "recipe": "none,weights=int8"})
        cls.trained = cls.folder / "trained"
        done = nibble("train", "--config", cls.config, "--output", cls.trained)
        assert done.returncode == 0, done.stderr

    def export(self, name, checkpoint):
        out = self.folder / name
        self.ok("export", checkpoint, "--output", out)
        return out

    def test_round_trip_is_exact(self):
        golden = self.copy(initializer_range=0.03)  # transformers wrote its default, which would not show
        imported = golden / "out"
        self.read(golden)
        out = self.export("exact", imported)
        self.assertEqual(read_tensors(out / "model.safetensors"), self.tensors)
        theirs, ours = (json.loads((f / "config.json").read_text()) for f in (golden, out))
        for key in ("model_type", "vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "embd_pdrop",
                    "attn_pdrop", "resid_pdrop", "activation_function", "layer_norm_epsilon", "initializer_range",
                    "tie_word_embeddings", "bos_token_id", "eos_token_id", "architectures"):
            self.assertEqual(ours[key], theirs[key], key)
        again = self.folder / "again"
        self.ok("import", out, "--output", again)
        for file in ("tokenizer.json", "checkpoints/step_00000000.safetensors"):
            self.assertEqual((again / file).read_bytes(), (imported / file).read_bytes())

    def test_a_trained_model(self):
        out = self.export("small", self.trained)
        again = self.folder / "small_again"
        self.ok("import", out, "--output", again)
        text = self.folder / "text.txt"
        losses = [json.loads(self.ok("eval", "--checkpoint", c, "--text", text, "--json"))["loss"]
                  for c in (self.trained, again)]
        self.assertAlmostEqual(*losses, delta=1e-4)

    def test_rows_that_are_no_token_are_left_out(self):
        padded = self.folder / "padded"
        self.ok("train", "--config", self.config, "--output", padded, "--set", "model.vocab=272", "--set", "recipe=none")
        tensors = read_tensors(self.export("cropped", padded) / "model.safetensors")
        for theirs, ours in (("transformer.wte.weight", "wte.weight"), ("lm_head.weight", "lm_head.weight")):
            dtype, shape, data = weights(padded)[ours]
            self.assertEqual(shape, [272, 16])
            self.assertEqual(tensors[theirs], (dtype, [257, 16], data[:257 * 16 * 4]))
        self.assertEqual(json.loads((self.folder / "cropped/config.json").read_text())["vocab_size"], 257)

    def test_without_a_tokenizer(self):
        folder = self.copy()
        (folder / "tokenizer.json").unlink()
        self.read(folder)
        self.assertEqual(sorted(p.name for p in self.export("bare", folder / "out").iterdir()),
                         ["config.json", "model.safetensors"])

    def test_bad_input(self):
        self.fails("^export: .* is not empty", "export", self.imported, "--output", self.trained)
        self.fails("^checkpoint: .*nowhere does not exist", "export", self.folder / "nowhere", "--output",
                   self.folder / "none")
        moved = self.folder / "moved.safetensors"
        shutil.copy(self.imported / "checkpoints/step_00000000.safetensors", moved)
        self.fails("^vocabulary: .*tokenizer.json is not there; --data", "export", moved, "--output",
                   self.folder / "none")
        self.fails("^vocabulary: .*got 257 tokens, expected 288", "export", self.imported, "--output",
                   self.folder / "none", "--data", self.tokens)
        self.assertFalse((self.folder / "none").exists())

    def test_a_half_written_folder_is_no_model(self):
        for write in range(1, 8):
            out = self.folder / f"killed{write}"
            done = nibble("export", self.imported, "--output", out, fault=f"write:{write}")
            self.assertEqual(done.returncode, -9)
            self.assertFalse((out / "config.json").exists())
            self.fails("no space left", "export", self.imported, "--output", self.folder / "full",
                       fault=f"write:{write}:enospc")
            self.assertFalse((self.folder / "full").exists())

    @unittest.skipUnless(transformers, "needs torch and transformers")
    def test_transformers_loads_it_with_the_same_logits(self):
        out = self.export("theirs", self.imported)
        golden = json.loads((GOLDEN / "logits.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        self.assertEqual(tokenizer(golden["text"])["input_ids"], golden["ids"])
        self.assertEqual(tokenizer.decode(golden["ids"]), golden["text"])
        with torch.no_grad():
            logits = model(torch.tensor([golden["ids"]])).logits[0]
        self.assertLess((logits - torch.tensor(golden["logits"])).abs().max().item(), 1e-4)

    @unittest.skipUnless(transformers, "needs torch and transformers")
    def test_transformers_has_the_loss_of_a_trained_model(self):
        out = self.export("theirs_small", self.trained)
        text = self.folder / "window.txt"
        text.write_text("caf\u00e9 in Bath  .", "utf-8")
        self.assertEqual(text.stat().st_size, 16)  # the model's context: one window
        loss = json.loads(self.ok("eval", "--checkpoint", self.trained, "--text", text, "--json"))["loss"]
        model = transformers.AutoModelForCausalLM.from_pretrained(out).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        ids = tokenizer(text.read_text("utf-8"))["input_ids"]
        self.assertEqual(ids, list(text.read_bytes()))
        ids = torch.tensor([tokenizer.bos_token_id, *ids])
        with torch.no_grad():
            logits = model(ids[None, :-1]).logits[0]
        self.assertAlmostEqual(torch.nn.functional.cross_entropy(logits, ids[1:]).item(), loss, delta=1e-4)

if __name__ == "__main__":
    main()
