#!/usr/bin/env python3
"""nibble inspect: a configuration's meaning, a file's content, and every damage. `test_inspect.py NIBBLE`."""
import json
import math
import struct

from cli_testing import TrainedCase, main, nibble


def split(data):
    """(header as JSON, the data section) of a safetensors file."""
    size = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8:8 + size]), data[8 + size:]


def join(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


class Inspect(TrainedCase):
    TRAIN = ("--set", "recipe=int8")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.newest = max((cls.whole / "checkpoints").glob("*.safetensors"))

    def inspect(self, *arguments):
        return json.loads(self.ok("inspect", *arguments, "--json"))

    def damaged(self, data, pattern):
        """Exit 1 with one line; what is readable is listed all the same. Returns the JSON."""
        file = self.folder / "damaged.safetensors"
        file.write_bytes(data)
        done = nibble("inspect", file, "--stats", "--json")
        self.assertEqual(done.returncode, 1)
        lines = done.stderr.decode().splitlines()
        self.assertEqual(len(lines), 1, lines)
        self.assertRegex(lines[0], "^nibble: error: inspect: .*" + pattern)
        report = json.loads(done.stdout)
        self.assertFalse(report["intact"])
        self.assertEqual(nibble("inspect", file, "--stats").returncode, 1)
        return report

    # Files of tensors.
    def test_checkpoint(self):
        report = self.inspect(self.whole)
        self.assertEqual(report, self.inspect(self.newest))
        self.assertTrue(report["intact"] and report["checksummed"])
        self.assertEqual((report["state"]["step"], report["state"]["processor"]), (6, "cpu"))
        header, _ = split(self.newest.read_bytes())
        header.pop("__metadata__")
        self.assertEqual({t["name"]: t["shape"] for t in report["tensors"]},
                         {name: t["shape"] for name, t in header.items()})
        text = self.ok("inspect", self.whole, "--stats")
        self.assertRegex(text, "state +intact")
        self.assertEqual(text, self.ok("inspect", self.whole, "--stats"))

    def test_statistics(self):
        values = [0.0, -1.0, 3.0, math.nan, math.inf, 0.0]
        file = self.folder / "values.safetensors"
        header = {"f": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]},
                  "codes": {"dtype": "I8", "shape": [3], "data_offsets": [24, 27]},
                  "small": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [27, 29]},
                  "none": {"dtype": "BF16", "shape": [0], "data_offsets": [29, 29]}}
        file.write_bytes(join(header, struct.pack("<6f", *values) + struct.pack("<3b", -128, 0, 127) + b"\x38\xb8"))
        stats = {t["name"]: t["stats"] for t in self.inspect(file, "--stats")["tensors"]}
        self.assertEqual({k: v for k, v in stats["f"].items() if k != "histogram"},
                         {"count": 6, "min": -1, "max": 3, "mean": 0.5, "rms": math.sqrt(2.5), "absmax": 3, "zeros": 2,
                          "not_finite": 2})
        self.assertEqual(stats["f"]["histogram"], [1, 0, 0, 0, 2] + [0] * 10 + [1])
        self.assertEqual((stats["codes"]["min"], stats["codes"]["absmax"]), (-128, 128))
        self.assertEqual((stats["small"]["min"], stats["small"]["max"]), (-1, 1))
        self.assertEqual((stats["none"]["count"], sum(stats["none"]["histogram"])), (0, 0))

    def test_encoded_states(self):
        """Statistics of codes are of what they decode to: by the formats' definition, computed here."""
        run = self.folder / "moments"
        self.ok("train", "--config", self.config, "--output", run, "--set", "model.width=64", "--set",
                "optimizer.m=int8:row", "--set", "optimizer.v=uint8:group256", "--set", "recipe=int8,weights=int8")
        newest = max((run / "checkpoints").glob("*.safetensors"))
        header, body = split(newest.read_bytes())

        def read(name, form):
            begin, end = header[name]["data_offsets"]
            return struct.unpack(f"<{(end - begin) // struct.calcsize(form)}{form}", body[begin:end])
        tensors = {t["name"]: t for t in self.inspect(run, "--stats")["tensors"]}
        name = "blocks.0.mlp.fc1.weight"
        for codes, scales, form, run_of, word in ((name + "/m.codes", name + "/m.scales", "b", 64, "int8:row"),
                                                  (name + "/codes", name + "/scales", "b", 64, "int8:row:sr"),
                                                  (name + "/v.codes", name + "/v.scales", "B", None, "uint8:group256")):
            with self.subTest(codes=codes):
                values, steps = read(codes, form), read(scales, "f")
                run_of = run_of or len(values) // len(steps)
                decoded = [v * steps[i // run_of] for i, v in enumerate(values)]
                found = tensors[codes]
                self.assertEqual(found["decoded_from"], word)
                stats = found["stats"]
                self.assertEqual(stats["count"], len(values))
                # f32 products, rounded once.
                self.assertAlmostEqual(stats["max"] / max(decoded), 1, delta=1e-6)
                self.assertAlmostEqual(stats["absmax"] / max(map(abs, decoded)), 1, delta=1e-6)
                rms = math.sqrt(sum(x * x for x in decoded) / len(decoded))
                self.assertAlmostEqual(stats["rms"] / rms, 1, delta=1e-6)
                self.assertNotIn("decoded_from", tensors[scales])
        self.assertIn("decoded from int8:row", self.ok("inspect", run, "--stats"))
        self.fits_80_columns(run, "--stats")

    def test_damage(self):
        data = self.newest.read_bytes()
        header, body = split(data)
        names = [name for name in header if name != "__metadata__"]
        flipped = bytearray(data)
        flipped[-5] ^= 1
        self.assertEqual(len(self.damaged(bytes(flipped), "is corrupt: got checksum")["tensors"]), len(names))
        report = self.damaged(data[:-len(body) // 2], "truncated or corrupt")
        faults = [t["fault"] for t in report["tensors"]]
        self.assertEqual(len(faults), len(names))
        self.assertTrue(any(f is None for f in faults) and any(f and "beyond the end" in f for f in faults), faults)
        for content, pattern in ((b"", "expected at least a header length"), (data[:5], "expected at least"),
                                 (data[:100], "got a header of"), (struct.pack("<Q", 2 ** 63) + data[8:], "got a header"),
                                 (data[:8] + b"x" + data[9:], "not a JSON object")):
            self.assertEqual(self.damaged(content, pattern)["tensors"], [])
        first = names[0]
        for change, pattern, fault in (
                ({"dtype": "F77"}, "not supported", "not known"), ({"shape": [-1]}, "impossible", "impossible"),
                ({"shape": [2 ** 62, 2 ** 62]}, "impossible", "impossible"), ({"shape": 3}, "", None),
                ({"data_offsets": [8, 4]}, "truncated or corrupt", "ends before"),
                ({"data_offsets": [-8, 4]}, "", None), ({"shape": [1]}, "bytes, expected", "its shape needs"),
                ({"data_offsets": "x"}, "needs two data_offsets", "malformed"),
                ({"data_offsets": [0, 1e300]}, "expected an integer", "malformed"),
                ({"shape": [2.5]}, "got 2.5, expected an integer", "malformed")):
            with self.subTest(change=change):
                report = self.damaged(join(header | {first: header[first] | change}, body), pattern)
                entry = next(t for t in report["tensors"] if t["name"] == first)
                self.assertIsNotNone(entry["fault"])
                if fault:
                    self.assertIn(fault, entry["fault"])
        twin = header | {"twin": header[first]}
        self.assertIn("overlaps", [t["fault"] for t in self.damaged(join(twin, body), "overlap")["tensors"]][-1])

    # Configurations.
    def test_config(self):
        report = self.inspect(self.config, "--set", "recipe=int8")
        width, tokens = 16, 4 * 16
        block = [p for p in report["parameters"] if p["name"] == "blocks.0"]
        self.assertEqual([p["count"] for p in block], [12 * width * width + 13 * width])
        qkv = {p["product"]: p for p in report["products"] if p["layer"] == "blocks.*.attn.qkv"}
        self.assertEqual([(p["m"], p["n"], p["k"]) for p in qkv.values()],
                         [(tokens, 48, 16), (tokens, 16, 48), (48, 16, tokens)])
        self.assertEqual({p["mode"] for p in qkv.values()}, {"real"})
        # 64 tokens are less than a group: nobody encodes dy. x is what the norm makes, twice.
        self.assertEqual({p["product"]: p["lhs_by"] + p["rhs_by"] for p in qkv.values()},
                         {"fprop": "layer_norm", "dgrad": "", "wgrad": "layer_norm"})
        memory = report["memory"]
        self.assertEqual(memory["parameters"], sum(p["bytes"] for p in report["parameters"]))
        categories = ("parameters", "gradients", "moments", "activations", "encodings", "logits", "workspace", "batch")
        self.assertEqual(set(memory), set(categories) | {"peak", "process", "checkpoint"})
        self.assertEqual(memory["peak"], sum(memory[k] for k in categories))
        everything = sum(p["tensors"] for p in report["parameters"])
        self.assertEqual(report["update"], {"optimizer": "adamw", "at_once": everything, "apart": {}})
        update = self.inspect(self.config, "--set", "recipe=m1_8_row")["update"]
        self.assertEqual([reason.split(")")[0] for reason in update["apart"]], ["sim(int8:row:floor1e-08"])
        self.assertEqual(update["at_once"] + sum(update["apart"].values()), everything)
        # Both encodings of four matrices; blocks of 32 are finer than the kernel's patches.
        self.assertEqual(report["encodings"]["apart"], {})
        self.assertGreaterEqual(report["encodings"]["at_once"], 8)
        fine = self.inspect(self.config, "--set", "recipe=int8_block32", "--set", "model.width=64")["encodings"]
        self.assertEqual([reason.split(": ")[0] for reason in fine["apart"]], ["int8:block32:recip"])
        plain = self.inspect(self.config)
        self.assertEqual({p["mode"] for p in plain["products"]}, {"dense"})
        every = self.inspect(self.config, "--set", "model.layers=2", "--all")
        self.assertIn("blocks.1.mlp.fc1", {p["layer"] for p in every["products"]})

    def test_producers(self):
        """Which operations encode for the layers behind them."""
        def producers(*settings):
            report = self.inspect("gpt2.jsonnet", *(w for s in settings for w in ("--set", s)))
            return {p["layer"].removeprefix("blocks.*."): (p["lhs_by"], p["rhs_by"])
                    for p in report["products"] if p["product"] == "wgrad"}
        layers = {"attn.qkv": ("", "layer_norm"), "attn.proj": ("", ""), "mlp.fc1": ("gelu", "layer_norm"),
                  "mlp.fc2": ("", "gelu"), "lm_head": ("", "")}
        self.assertEqual(producers("recipe=int8"), layers)
        self.assertEqual(producers("recipe=int8_block128", "model.checkpoint_blocks=true"),
                         layers | {"attn.proj": ("", "self_attention")})
        nobody = dict.fromkeys(layers, ("", ""))
        for recipe in ("none", "int8,fuse=off", "int8_rowwise", "w8a8g8"):
            self.assertEqual(producers(f"recipe={recipe}"), nobody)
        text = self.ok("inspect", "gpt2.jsonnet", "--set", "recipe=int8,lm_head=on")
        exact = "int8:row:sr:recip (without targets, which are exact) × int8:row:recip"
        self.assertEqual(text.count(exact), 1)
        self.assertNotIn("without targets", self.ok("inspect", "gpt2.jsonnet", "--set",
                                                 "recipe=int8,lm_head=on,target=encoded"))
        self.assertIn("int8:row:recip (by layer_norm) × int8:row:recip",
                      self.ok("inspect", "gpt2.jsonnet", "--set", "recipe=int8"))

    def test_routes(self):
        """The kernels of a GPU, named by any build; what is slower than the recipe promises is marked."""
        def kernels(*settings, device="cuda"):
            report = self.inspect("gpt2.jsonnet", "--device", device, *(w for s in settings for w in ("--set", s)))
            return {(p["kernel"], p["fallback"]) for p in report["products"]}
        head = ("cublaslt bf16", False)
        self.assertEqual(kernels("recipe=int8"), {("wgmma", False), ("wgmma resident", False), head})
        self.assertEqual(kernels("recipe=none,fprop=uint8:row:asym|int8:row|real"), {("wgmma", False), head})
        self.assertEqual(kernels("recipe=none,fprop=uint8:group48:asym|int8:row|real"),
                         {("general dp4a", True), head})
        self.assertEqual(kernels("recipe=int8", device="cpu"), {("cpu int kernel", False), ("cpu bf16 product", False)})
        report = self.inspect("gpt2.jsonnet", "--set", "recipe=w8a8")
        simulated = next(p for p in report["products"] if p["mode"] == "simulated")
        self.assertEqual((simulated["kernel"], simulated["reason"]),
                         ("cpu bf16 product", "codes are decoded to bf16 first"))
        self.assertIn("real, general dp4a ← FALLBACK: uint8 x int8 codes",
                      self.ok("inspect", "gpt2.jsonnet", "--device", "cuda", "--set",
                              "recipe=none,fprop=uint8:group48:asym|int8:row|real"))

    def test_attention(self):
        """The kernels of attention, and whether the forward encodes for proj."""
        def attention(*settings, device="cuda"):
            report = self.inspect("gpt2.jsonnet", "--device", device, *(w for s in settings for w in ("--set", s)))
            (row,) = report["attention"]
            self.assertEqual((row["layer"], row["tokens"], row["heads"], row["width"]),
                             ("blocks.*.attn", 1024, 12, 64))
            return row["forward"]["kernel"], row["backward"]["kernel"], row["encodes"]
        own = "wgmma bf16"
        self.assertEqual(attention("recipe=int8"), (own, own, False))
        self.assertEqual(attention("recipe=int8_block128"), (own, own, True))
        self.assertEqual(attention("recipe=int8_block128,fuse=off"), (own, own, False))
        self.assertEqual(attention("recipe=int8", device="cpu"), ("cpu bf16", "cpu bf16", False))
        self.assertEqual(attention("recipe=int8", "model.compute=f32"), ("fma f32", "fma f32", False))
        text = self.ok("inspect", "gpt2.jsonnet", "--device", "cuda", "--set", "recipe=int8_block128")
        self.assertRegex(text, r"forward +wgmma bf16, encodes for attn\.proj: \w+")

    def fits_80_columns(self, *arguments):
        for line in self.ok("inspect", *arguments).splitlines():
            self.assertLessEqual(len(line), 80, line)

    def test_width(self):
        for recipe in ("none", "int8", "int8_block128", "fp8_tensorwise", "w8a8g8"):
            for device in ("cpu", "cuda"):
                self.fits_80_columns("gpt2_xl.jsonnet", "--set", "model.layers=11", "--device", device, "--set",
                                     f"recipe={recipe}", "--all")
        self.fits_80_columns("gpt2_xl.jsonnet", "--set", "recipe=int8", "--all", "--memory", "4GiB")
        file = self.folder / "long.safetensors"
        name = "transformer.decoder.layers.11.self_attention.query_key_value.weight.of.an.adapter"
        file.write_bytes(join({name[:79]: {"dtype": "F32", "shape": [1, 2, 3], "data_offsets": [0, 24]}}, b"\0" * 24))
        self.fits_80_columns(file, "--stats")

    def test_memory(self):
        """Categories that have closed forms, exactly; the others move as they must."""
        def memory(*settings):
            return self.inspect("gpt2.jsonnet", *(w for s in settings for w in ("--set", s)))["memory"]
        weights, accumulation = 124475904, 16
        plain = memory("model.compute=f32", "trainer.batch=4")
        self.assertEqual([plain[k] for k in ("parameters", "gradients", "moments", "batch", "encodings")],
                         [4 * weights, 4 * weights, 8 * weights, accumulation * 2 * 4 * 4 * 1024 + 4 * 1024, 0])
        double = memory("model.compute=f32", "trainer.batch=8")
        for key in ("activations", "batch"):
            # The mask of positions and the loss itself do not grow.
            self.assertAlmostEqual(double[key] / plain[key], 2, delta=0.01, msg=key)
        self.assertEqual(double["logits"], plain["logits"])  # a chunk of them
        less = memory("model.compute=f32", "trainer.batch=4", "model.checkpoint_blocks=true")
        self.assertLess(less["activations"], plain["activations"] / 4)
        small = memory("model.compute=f32", "trainer.batch=4", "recipe=int8")
        # Codes of both orientations at the fullest moment; moments of a byte and a scale for 256 of them.
        self.assertGreater(small["encodings"], 0)
        self.assertLess(small["moments"], 2.2 * weights)
        self.assertLess(small["activations"], plain["activations"])
        # Weights by option: all in f32, matrices in bf16 with vectors in f32, or as codes with a scale a row; none has a copy.
        vectors = 2 * 768 + 12 * (4 * 768 + 9 * 768)
        matrices, rows = weights - vectors, 50304 + 1024 + 12 * 9 * 768
        for stored, size in (("f32", 4 * weights), ("bf16", 2 * matrices + 4 * vectors),
                             ("int8", matrices + 4 * rows + 4 * vectors)):
            self.assertEqual(memory("trainer.batch=4", f"recipe=int8,weights={stored}")["parameters"], size, stored)

    def test_memory_by_module(self):
        """What linear layers keep has closed forms, and goes with each level of recomputation."""
        def parts(level):
            # Few logits at a time: the fullest moment is in the blocks' backward pass, not the classifier's.
            settings = ("model.compute=bf16", "trainer.batch=32", "recipe=int8", "model.token_chunk=1024",
                        f"model.recompute={level}")
            report = self.inspect("gpt2.jsonnet", *(w for s in settings for w in ("--set", s)))
            for category in ("activations", "workspace"):
                named = sum(b for name, b in report["memory_by_module"].items() if name.startswith(category + ": "))
                self.assertLessEqual(named, report["memory"][category])
            return {name: b for name, b in report["memory_by_module"].items() if name.startswith("activations: ")}
        row = 12 * 32 * 1024 * 768 * 2  # of all blocks
        kept = {level: parts(level) for level in ("inputs", "mlp", "products", "sums")}
        self.assertEqual([kept[level].get("activations: mlp.fc1", 0) for level in kept], [4 * row, 0, 0, 0])
        self.assertEqual([kept[level].get("activations: attn.qkv", 0) for level in kept], [3 * row, 3 * row, 0, 0])
        self.assertAlmostEqual(kept["products"]["activations: blocks"] - kept["sums"]["activations: blocks"], row, delta=row / 10)

    def test_memory_of_a_process(self):
        """Beside the tensors: more where cuBLASLt multiplies floats, be it in one layer."""
        def beside(recipe):
            memory = self.inspect(self.config, "--set", f"recipe={recipe}", "--device", "cuda")["memory"]
            self.assertGreaterEqual(memory["held"], memory["peak"])
            return (memory["process"] - memory["held"]) / 2**20
        own = beside("int8,lm_head=on")
        self.assertEqual(own, 330)
        for recipe in ("none", "int8", "int8,lm_head=on,layer:blocks.0.mlp.fc1=none", "int8,lm_head=on,wgrad=none", "fp8_tensorwise,lm_head=on"):
            self.assertEqual(beside(recipe), own + 78, recipe)
        self.assertNotIn("held", self.inspect(self.config)["memory"])
        self.assertRegex(self.ok("inspect", self.config, "--device", "cuda"), r"\n  held +[\d.]+ MiB  .*\n  process +[\d.]+ MiB ")

    def test_memory_is_what_training_takes(self):
        """The peak of real steps by the plan; kernels take a little scratch of their own."""
        settings = ["--set", "model.width=128", "--set", "model.layers=2", "--set", "trainer.steps=3",
                    "--set", "trainer.batch=16"]
        planned = self.inspect(self.config, *settings)["memory"]["peak"]
        self.ok("train", "--config", self.config, "--output", self.folder / "real", *settings, "--threads", 2)
        rows = [json.loads(line) for line in (self.folder / "real/metrics.jsonl").read_text().splitlines()]
        peak = max(row.get("memory_peak", 0) for row in rows)
        self.assertLessEqual(planned, peak)
        self.assertAlmostEqual(planned, peak, delta=0.03 * peak)

    def test_fits(self):
        """The largest batch fits, by the same plan, and one more does not."""
        peak = [self.inspect(self.config, "--set", f"trainer.batch={b}")["memory"]["peak"] for b in (5, 6)]
        fits = lambda limit: self.inspect(self.config, "--memory", limit)["fits"]["batches"][0]["batch"]
        self.assertEqual([fits(peak[0]), fits(peak[1] - 1), fits(peak[1]), fits("1KiB")], [5, 5, 6, 0])
        # What is told to fit does, and none is told when the configuration fits.
        short = self.inspect("gpt2.jsonnet", "--memory", "8GiB")["fits"]
        self.assertEqual((short["memory"], short["source"]), (8 << 30, "given"))
        self.assertRegex(short["change"], r"^\d+\.\d GiB with --set trainer.batch=\d+ --set trainer.accumulation=\d+; or ")
        for change in short["change"].split("; or "):
            settings = change.split(" with ")[1].split()
            self.assertLessEqual(self.inspect("gpt2.jsonnet", *settings)["memory"]["peak"], 8 << 30, change)
        self.assertIsNone(self.inspect("gpt2.jsonnet", "--memory", "800GiB")["fits"]["change"])
        self.assertEqual(self.inspect("gpt2.jsonnet", "--memory", "1MiB")["fits"]["change"],
                         "no smaller batch fits; a smaller model might")
        self.assertRegex(self.ok("inspect", "gpt2.jsonnet", "--memory", "8GiB"),
                         r"largest trainer.batch in 8.0 GiB\n(.|\n)*as configured it does not fit; what would: ")

    def test_fits_by_level(self):
        """Every level of recomputation that allows more is listed, each with more than the one before."""
        rows = self.inspect("gpt2.jsonnet", "--set", "recipe=int8", "--memory", "40GiB")["fits"]["batches"]
        self.assertEqual([row["with"].split("=")[-1] for row in rows], ["as configured", "mlp", "products", "sums", "true"])
        batches = [row["batch"] for row in rows]
        self.assertEqual(batches, sorted(set(batches)))

    def test_fits_without_a_size(self):
        """The device's memory, or the assumed one of a GPU that is not there."""
        cpu = self.inspect(self.config)["fits"]
        self.assertEqual(cpu["source"], "device")
        self.assertIn("all that cpu has", self.ok("inspect", self.config))
        gpu = self.inspect(self.config, "--device", "cuda:63")["fits"]
        self.assertEqual((gpu["source"], gpu["memory"]), ("assumed", 141 * 10 ** 9))
        self.assertIn("131.3 GiB (assumed: an H200's 141 GB", self.ok("inspect", self.config, "--device", "cuda:63"))

    def test_without_data(self):
        self.assertRegex(self.ok("inspect", "gpt2.jsonnet"), r"ln_f.bias +\[768\] +f32 +768 +3.0 KiB\n")
        report = self.inspect("gpt2.jsonnet", "--device", "cuda")
        self.assertEqual(sum(p["count"] for p in report["parameters"]), 124475904)
        broken = self.folder / "broken.jsonnet"
        for pattern, text in ((r"^config: .*broken.jsonnet:1", "{ model: "), (r"^config: .*object", "[1]"),
                              (r"unknown key", '{"modle": 1}'), (r"vocabulary is not known", "{}")):
            broken.write_text(text)
            self.fails(pattern, "inspect", broken)

    def test_bad_input(self):
        for pattern, *arguments in (
                (r"^config: no such file", "nowhere"), (r"nowhere.safetensors is not a file", "nowhere.safetensors"),
                (r"is no run: it holds no checkpoint", self.folder),
                (r"^device: unknown name: got 'tpu'", self.config, "--device", "tpu"),
                (r"--stats is for a file", self.config, "--stats"), (r"are for a configuration", self.newest, "--all"),
                *((r"^--memory: not a size", self.config, "--memory", size)
                  for size in ("lots", "0", "24 gib", "nan", "1e99GiB", "0x", "24GiBs", "=-3GiB"))):
            with self.subTest(arguments=arguments):
                self.fails(pattern, "inspect", *arguments)


if __name__ == "__main__":
    main()
