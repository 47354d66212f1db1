#!/usr/bin/env python3
"""`nibble compare` by layer: `test_compare.py NIBBLE`."""
import json
import math
import shutil

from cli_testing import SMALL, TrainedCase, main, read_npy, write_config

FC2 = "blocks.1.mlp.fc2"


def sqnr(a, b):
    """In dB, of exactly rounded sums."""
    return 10 * math.log10(math.fsum(x * x for x in a) / math.fsum((x - y) ** 2 for x, y in zip(a, b)))


class Layers(TrainedCase):
    MODEL = {"layers": 2, "dropout": 0.1}

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.checkpoints = sorted((cls.whole / "checkpoints").glob("*.safetensors"))

    def compare(self, *arguments):
        return json.loads(self.ok("compare", *arguments, "--json"))

    def test_two_recipes_of_a_configuration(self):
        arguments = ("--config", self.config, "--recipe", "none", "--recipe", "int8")
        report = self.compare(*arguments)
        self.assertEqual(report, self.compare(*arguments, "--threads", 1))
        forward = [row["name"] for row in report["forward"]]
        self.assertLess(forward.index("wte/embedding"), forward.index("blocks.0.attn.qkv/linear"))
        self.assertLess(forward.index("blocks.0.attn.qkv/linear"), forward.index(f"{FC2}/linear"))
        backward = [row["name"] for row in report["backward"]]
        self.assertLess(backward.index(f"{FC2}.weight"), backward.index("blocks.0.attn.qkv/linear"))
        # The same weights and the same dropout on both sides: what no product has touched is equal.
        rows = {row["name"]: row for row in report["forward"]}
        self.assertTrue(rows["blocks.0.ln1/layer_norm"]["equal"])
        self.assertFalse(rows["blocks.0.attn.qkv/linear"]["equal"])
        self.assertEqual({row["kind"] for row in report["backward"]}, {"gradient", "parameter"})
        self.assertEqual(report["first_below"]["forward"], None)
        self.assertEqual((report["only_a"], report["only_b"]), ([], []))
        # Every threshold above names the first layer that differs.
        strict = self.compare(*arguments, "--threshold", 500)
        self.assertEqual(strict["first_below"]["forward"], "blocks.0.attn.qkv/linear")
        self.assertTrue(next(r for r in strict["forward"] if r["name"] == "blocks.0.attn.qkv/linear")["diverges"])

    def test_text_and_file(self):
        file = self.folder / "report.json"
        text = self.ok("compare", self.whole, "--recipe", "none", "--recipe", "w4_tensor", "--json", file)
        self.assertRegex(text, r"A  .*step 6, recipe none: loss \d\.\d+\nB  .*recipe w4_tensor,tie=on: loss")
        self.assertRegex(text, r"\nblocks\.0\.attn\.qkv/linear +\[1, 16, 48\] +\d+\.\d +0\.\d{6} +\S+  <\n")
        self.assertRegex(text, r"first below 20 dB: blocks\.0\.attn\.qkv/linear\n")
        self.assertRegex(text, r"\ngradient of all parameters, \d+ numbers: SQNR \d+\.\d dB, cosine 0\.\d{6}\n")
        self.assertEqual(json.loads(file.read_text())["first_below"]["forward"], "blocks.0.attn.qkv/linear")

    def test_checkpoints(self):
        same = self.compare(self.checkpoints[-1], self.whole, "--layers")
        self.assertTrue(all(row["equal"] for row in same["forward"] + same["backward"]))
        self.assertTrue(same["gradient"]["equal"])
        self.assertEqual(same["a"], same["b"])
        steps = self.compare(*self.checkpoints[:2])
        self.assertFalse(next(row for row in steps["forward"] if row["name"] == "wte/embedding")["equal"])
        self.assertEqual(steps, self.compare(*self.checkpoints[:2], "--data", self.tokens, "--window", 0))
        other = self.compare(*self.checkpoints[:2], "--split", "val", "--window", 3, "--batch", 2, "--sequence", 8)
        self.assertEqual(other["batch"] | {"data": ""}, {"data": "", "split": "val", "window": 3, "windows": 2,
                                                         "sequence": 8, "seed": 1})
        self.assertEqual(other["forward"][-1]["shape"], [16])
        folder = self.folder / "some"
        folder.mkdir()
        shutil.copy(self.checkpoints[0], folder)
        self.assertTrue(all(row["equal"] for row in self.compare(folder, self.checkpoints[0])["forward"]))

    def test_two_configurations(self):
        bf16 = write_config(self.folder / "bf16.jsonnet", json.loads(self.config.read_text()) | {"recipe": "int8"})
        pair = ("--config", self.config, "--config", bf16)
        report = self.compare(*pair)
        self.assertTrue(report["forward"][0]["equal"])
        # A seed of one's own draws other weights, alike on both sides.
        other = self.compare(*pair, "--seed", 7)
        self.assertNotEqual(report["a"]["loss"], other["a"]["loss"])
        self.assertTrue(other["forward"][0]["equal"])
        # From given weights; A is then what the checkpoint itself gives.
        init = self.compare(*pair, "--init", self.whole)
        recipes = self.compare(self.whole, "--recipe", "none", "--recipe", "int8")
        self.assertEqual((init["forward"], init["backward"]), (recipes["forward"], recipes["backward"]))
        self.fails(r"compare: wte.weight is \[257, 16\] in A and \[257, 32\] in B; expected models of one shape",
                   "compare", "--config", self.config, "--config",
                   write_config(self.folder / "wide.jsonnet",
                                json.loads(self.config.read_text()) | {"model": SMALL["model"] | {"width": 32}}))

    def test_recipes_that_untie_the_head(self):
        """The head stays as the model has it: otherwise weights, not recipes, would be compared."""
        for model in (("--config", self.config), (self.whole,)):
            report = self.compare(*model, "--recipe", "none", "--recipe", "none,tie=off")
            self.assertTrue(all(row["equal"] for row in report["forward"] + report["backward"]))
        untied = self.compare("--config", self.config, "--recipe", "none,tie=off", "--recipe", "none")
        self.assertIn("lm_head.weight", [row["name"] for row in untied["backward"]])

    def test_dump(self):
        """The numbers of the table are those of the dumped tensors. Tier: the order of accumulation, in doubles."""
        folder = self.folder / "dumps"
        report = self.compare("--config", self.config, "--recipe", "none", "--recipe", "int8", "--dump", f"{FC2}/linear",
                              folder, "--dump", f"{FC2}.weight", folder)
        self.assertEqual(sorted(p.name for p in folder.iterdir()),
                         [f"{FC2}.{name}.{side}.npy" for name in ("linear.gradient", "linear.output", "weight.gradient")
                          for side in "ab"])
        rows = {(row["name"], row["kind"]): row for row in report["forward"] + report["backward"]}
        for name, kind, file in ((f"{FC2}/linear", "output", f"{FC2}.linear.output"),
                                 (f"{FC2}/linear", "gradient", f"{FC2}.linear.gradient"),
                                 (f"{FC2}.weight", "parameter", f"{FC2}.weight.gradient")):
            (dtype, shape, a), (_, _, b) = (read_npy(folder / f"{file}.{side}.npy") for side in "ab")
            row = rows[name, kind]
            self.assertEqual((dtype, list(shape)), ("<f4", row["shape"]))
            self.assertAlmostEqual(row["sqnr_db"], sqnr(a, b), delta=1e-9)
            self.assertEqual(row["max_abs_error"], max(abs(x - y) for x, y in zip(a, b)))
        self.fails(rf"--dump: got {FC2}.wieght, expected .*; the nearest are {FC2}.weight, ", "compare", self.whole,
                   "--recipe", "none", "--recipe", "int8", "--dump", f"{FC2}.wieght", folder)

    def test_bad_input(self):
        run, one, two = self.whole, *self.checkpoints[:2]
        recipes = ("--recipe", "none", "--recipe", "int8")
        choice = r"compare: got .*; expected two checkpoints, one checkpoint or --config with two --recipe, or two --config"
        damaged = self.folder / "damaged.safetensors"
        damaged.write_bytes(one.read_bytes()[:-100])
        foreign = self.folder / "foreign"
        foreign_text = self.folder / "foreign.txt"
        foreign_text.write_text("a b c " * 200)
        self.ok("tokenize", "--input", foreign_text, "--tokenizer", "bpe", "--vocab-size", 258, "--output", foreign)
        for pattern, *arguments in (
                (choice, one), (choice, one, two, *recipes), (choice, "--config", self.config),
                (choice, "--config", self.config, "--recipe", "int8"), (choice, run, *recipes, "--config", self.config),
                (choice, one, two, one),
                (r"^recipe: unknown recipe 'nope'", run, "--recipe", "none", "--recipe", "nope"),
                (r"^checkpoint: .*nowhere.safetensors does not exist", "nowhere.safetensors", one),
                (r"^checkpoint: .*damaged", damaged, one),
                (r"--init and --set are for configurations", run, *recipes, "--init", run),
                (r"^config: no such file", "--config", "nowhere.jsonnet", *recipes),
                (r"--window: got 1 windows from 999999, expected at most", run, *recipes, "--window", 999999),
                (r"--sequence: got 17 tokens, expected at most the context of 16", run, *recipes, "--sequence", 17),
                (r"--threshold: got nan", run, *recipes, "--threshold", "nan"),
                (r"^data: .*holds no dataset", run, *recipes, "--data", self.folder),
                (r"^vocabulary: .*got 258 tokens, expected 257", run, *recipes, "--data", foreign)):
            with self.subTest(arguments=arguments):
                self.fails(pattern, "compare", *arguments)
        for pattern, *arguments in (
                ("a run, checkpoint or --config is required", ),
                ("--threshold: is for comparing by layer: got runs", run, "--threshold", 3),
                ("--margin: is for finished runs: got checkpoints", one, two, "--margin", 3),
                ("--json: got .*, expected a name that ends in .json", "--json", one, two),
                ("--split: .*test", run, *recipes, "--split", "test"), ("--window", run, *recipes, "--window", -1)):
            with self.subTest(arguments=arguments):
                self.fails("usage: .*" + pattern, "compare", *arguments, code=2)
        self.assertGreater(one.stat().st_size, 1000)


if __name__ == "__main__":
    main()
