#!/usr/bin/env python3
"""`test_bench.py NIBBLE [cuda]`: nibble bench at small sizes: every form and layout right, JSON whole, bad input in one line."""
import json
import pathlib
import sys
import tempfile

from cli_testing import SMALL, Case, main, make_tokens, write_config

DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
FORMS = ["int8_row", "int8_group128", "int8_group256", "int4_row", "fp8_tensor", "fp8_row", "fp8_block128"]


class Bench(Case):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="nibble-bench-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def bench(self, *arguments):
        return self.ok("bench", *arguments, "--device", DEVICE, "--repeats", 3)

    @staticmethod
    def names(table):
        return [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("| ")]

    def test_gemm(self):
        file = self.folder / "gemm.json"
        text = self.bench("gemm", "--shapes", "small", "--forms", ",".join(FORMS), "--json", file)
        self.assertEqual(self.names(text),
                         ["M, N, K", "64, 48, 96", "48, 64, 32 nn", "32, 48, 64 tn", "geometric mean"])
        report = json.loads(file.read_text())
        self.assertEqual([(r["m"], r["n"], r["k"], r["layout"]) for r in report["rows"]],
                         [(64, 48, 96, "nt"), (48, 64, 32, "nn"), (32, 48, 64, "tn")])
        for row in report["rows"]:
            self.assertEqual([c["form"] for c in row["cells"]], ["dense", *FORMS])
            for cell in row["cells"]:
                self.assertNotIn("fault", cell, (row["layout"], cell["form"]))
                self.assertLess(cell["error"], 1)
                self.assertGreater(cell["us"], 0)
                self.assertTrue(cell["kernel"])

    def test_kernels(self):
        file = self.folder / "kernels.json"
        small = ("kernels", "--tokens", 256, "--width", 128, "--vocab", 300)
        names = self.names(self.bench(*small, "--json", file))
        rows = json.loads(file.read_text())["rows"]
        self.assertEqual(rows[0]["kernel"], "copy")
        self.assertEqual(rows[0]["bytes"], 4 * 256 * 128)
        self.assertGreaterEqual(len(rows), 22)
        for row in rows:
            self.assertLessEqual(row["error"], 1, row["kernel"])
            self.assertGreater(row["us"], 0, row["kernel"])
        self.assertEqual(names, ["kernel", *(row["kernel"] for row in rows)])
        self.assertEqual(self.names(self.bench(*small, "--filter", "decode")), ["kernel", "copy", "decode by row"])

    def test_own_shapes(self):
        text = self.bench("gemm", "--shapes", "33,7,64;5,16,80:tn", "--forms", "int8_row")
        self.assertEqual(self.names(text)[1:3], ["33, 7, 64", "5, 16, 80 tn"])

    def small_run(self):
        """A configuration's file and the setting of its data."""
        config = write_config(self.folder / "small.json", SMALL)
        return "--config", config, "--set", f"data.path={make_tokens(self.folder)}", "--device", DEVICE

    def peer(self, name, text):
        script = self.folder / f"{name}.py"
        script.write_text(text)
        return f"{name}={sys.executable} '{script}'"

    def test_train(self):
        quick = self.peer("quick", """import json, sys
assert sys.argv[1::2] == ["--layers", "--heads", "--width", "--vocab", "--batch", "--length", "--accumulation", "--steps"]
for step in range(1, int(sys.argv[-1]) + 1):
    print("not a row")
    print(json.dumps({"step": step, "tokens_per_second": 1000.0 * step, "loss": 7.0, "memory_peak": 5 << 30}))
""")
        file = self.folder / "train.json"
        text = self.ok("bench", "train", *self.small_run(), "--steps", 15, "--rounds", 2, "--recipe", "none", "--recipe",
                       "int8,dgrad=none", "--peer", quick, "--json", file)
        self.assertEqual(self.names(text), ["program", "none", "int8,dgrad=none", "quick"])
        first, second, peer = json.loads(file.read_text())["rows"]
        for row in (first, second):
            self.assertEqual(row["steps"], 15)
            self.assertNotIn("fault", row)
            for key in ("tokens_per_second", "host_seconds", "first_step_seconds", "loss", "tensors_bytes", "process_bytes"):
                self.assertGreater(row[key], 0, key)
        self.assertNotEqual(first["loss"], second["loss"])
        self.assertEqual((peer["tokens_per_second"], peer["loss"], peer["tensors_bytes"]), (13000, 7, 5 << 30))
        self.assertNotIn("host_seconds", peer)

    def test_memory(self):
        file = self.folder / "memory.json"
        recipes = ["none", "int8", "fp8_delayed", "int8,save=recompute,output=recompute", "none,save=recompute"]
        text = self.ok("bench", "memory", *self.small_run(), *(w for r in recipes for w in ("--recipe", r)), "--json", file)
        self.assertEqual(self.names(text), ["recipe", *recipes])
        for row in json.loads(file.read_text())["rows"]:
            self.assertLess(abs(row["planned_bytes"] - row["tensors_bytes"]), 0.03 * row["tensors_bytes"], row)

    def test_train_bad_input(self):
        run = ("bench", "train", *self.small_run(), "--recipe", "none")
        self.fails("bench: --peer: got 'x', expected NAME=COMMAND", *run, "--peer", "x")
        self.fails("recipe: ", *run, "--recipe", "int9")
        self.fails("bench: --steps: got 10, expected more than", *run, "--steps", 10)
        self.fails("bench: absent-program cannot be started", *run, "--steps", 11, "--peer", "x=absent-program")
        crash = self.peer("crash", "import sys; sys.exit('it is broken')")
        done = self.fails("bench: some runs failed", *run, "--steps", 11, "--peer", crash)
        self.assertTrue(any("crash: exit 1: it is broken" in line for line in done), done)
        endless = self.peer("endless", "import time; time.sleep(100)")
        done = self.fails("bench: some runs failed", *run, "--steps", 11, "--peer", endless, "--seconds", 2)
        self.assertTrue(any("ended after 2 s" in line for line in done), done)

    def test_bad_input(self):
        for pattern, *arguments in (("bench: .*expected M,N,K", "--shapes", "1,2"),
                                    ("bench: .*expected M,N,K", "--shapes", "1,2,3:tt"),
                                    ("bench: .*expected M,N,K", "--shapes", "0,2,3"),
                                    ("bench: .*expected M,N,K", "--shapes", "1,2,x"),
                                    ("bench: .*expected M,N,K", "--shapes", "1,2,3;"),
                                    ("bench: unknown form: .*expected int8_row", "--forms", "int9")):
            self.fails(pattern, "bench", "gemm", "--device", DEVICE, *arguments)
        self.fails("bench: .*multiple of 256", "bench", "kernels", "--device", DEVICE, "--tokens", 100)
        self.ok("bench", "gemm", "--repeats", 1, code=2)
        self.ok("bench", code=2)


if __name__ == "__main__":
    main()
