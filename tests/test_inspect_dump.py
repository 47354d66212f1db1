#!/usr/bin/env python3
"""nibble inspect --dump: tensors of a file as .npy. Tier: exact. `test_inspect_dump.py NIBBLE`."""
import json
import pathlib
import shutil
import struct
import tempfile

from cli_testing import SMALL, Case, main, make_tokens, read_npy, write_config


class Dumps(Case):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        tokens = make_tokens(cls.folder)
        model = SMALL["model"] | {"width": 32}
        cls.config = write_config(cls.folder / "small.jsonnet", SMALL | {"model": model, "data": {"path": str(tokens)}})

    def train(self, name, *overrides):
        run = self.folder / name
        self.ok("train", "--config", self.config, "--output", run, *(x for o in overrides for x in ("--set", o)))
        return run

    def dump(self, run, name):
        file = self.folder / "dump.npy"
        self.assertRegex(self.ok("inspect", run, "--dump", name, file), rf"dump.npy: {name}, ")
        return read_npy(file)

    def test_codes_and_scales(self):
        run, name = self.train("int8", "recipe=int8,weights=int8"), "blocks.0.mlp.fc1.weight"
        (kind, shape, codes), (_, rows, scales) = self.dump(run, name + "/codes"), self.dump(run, name + "/scales")
        self.assertEqual((kind, shape, rows), ("|i1", (128, 32), (128, 1)))
        dtype, _, values = self.dump(run, name)
        single = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
        self.assertEqual((dtype, values), ("<f4", [single(c * scales[i // 32]) for i, c in enumerate(codes)]))
        # A moment of 8 bits, one that is too small for them, and a counter.
        self.assertEqual(self.dump(run, name + "/m")[:2], ("<f4", (128, 32)))
        self.assertEqual(self.dump(run, name + "/m.codes")[:2], ("|u1", (128, 32)))
        self.assertEqual(self.dump(run, "ln_f.bias/v")[1:], ((32,), self.dump(run, "ln_f.bias/v.value")[2]))
        self.assertEqual(self.dump(run, "optimizer/updates"), ("<f8", (1,), [6.0]))

    def test_packed_codes(self):
        run = self.train("packed", "optimizer.m=int4:group32:packed")
        name = "blocks.0.mlp.fc1.weight/m"
        kind, shape, codes = self.dump(run, name + ".codes")
        self.assertEqual((kind, shape), ("|u1", (128, 32)))
        scales = self.dump(run, name + ".scales")[2]
        single = lambda x: struct.unpack("<f", struct.pack("<f", x))[0]
        signed = [c - 16 if c > 7 else c for c in codes]
        self.assertEqual(self.dump(run, name)[2], [single(c * scales[i // 32]) for i, c in enumerate(signed)])

    def test_bf16_and_simulated(self):
        run, name = self.train("bf16", "recipe=m1_8_row,weights=bf16"), "blocks.0.mlp.fc1.weight"
        dtype, _, values = self.dump(run, name)
        self.assertEqual(dtype, "<f4")
        self.assertTrue(all(struct.pack("<f", x)[:2] == b"\0\0" for x in values))
        # What the optimizer works on, and what it keeps.
        step, kept = self.dump(run, name + "/m")[2], self.dump(run, name + "/m.value")[2]
        self.assertNotEqual(step, kept)
        self.assertLess(max(abs(x - y) for x, y in zip(step, kept)), max(map(abs, kept)) / 127)

    def test_other_files_and_errors(self):
        file = self.folder / "plain.safetensors"
        header = json.dumps({"a/codes": {"dtype": "F8_E4M3", "shape": [2], "data_offsets": [0, 2]}}).encode()
        file.write_bytes(struct.pack("<Q", len(header)) + header + b"\x38\xb8")
        self.assertEqual(self.dump(file, "a/codes"), ("|u1", (2,), [0x38, 0xb8]))
        run = self.train("run")
        out = self.folder / "out.npy"
        for pattern, *arguments in (
                (r"--dump: got a, expected the name of a tensor in .*plain.safetensors; the nearest are a/codes", file,
                 "--dump", "a", out),
                (r"--dump: got ln_f.wieght, expected .*; the nearest are ln_f.weight, ln_f.", run, "--dump",
                 "ln_f.wieght", out),
                (r"--dump: got ln_f.weight/q, .*ln_f.weight/m, ln_f.weight/v", run, "--dump", "ln_f.weight/q", out),
                (r"--dump ln_f.weight: got the file .*, expected a name that ends in .npy", run, "--dump", "ln_f.weight",
                 self.config),
                (r"^npy: cannot create .*no such file", run, "--dump", "ln_f.weight", self.folder / "none" / "x.npy"),
                (r"--dump is for a file of tensors: got the configuration", self.config, "--dump", "ln_f.weight", out)):
            with self.subTest(arguments=arguments):
                self.fails(pattern, "inspect", *arguments)
                self.assertFalse(out.exists())
        for arguments in (("--dump", "ln_f.weight"), ("--dump", "ln_f.weight", out, "--json")):
            self.fails("usage: .*--dump", "inspect", run, *arguments, code=2)
        data = bytearray(max((run / "checkpoints").iterdir()).read_bytes())
        data[-5] ^= 1
        damaged = self.folder / "damaged.safetensors"
        damaged.write_bytes(data)
        self.fails("is corrupt", "inspect", damaged, "--dump", "ln_f.weight", out)


if __name__ == "__main__":
    main()
