#!/usr/bin/env python3
"""`test_bench.py NIBBLE [cuda]`: nibble bench at small sizes: every form and layout right, JSON whole, bad input in one line."""
import json
import pathlib
import sys
import tempfile

from cli_testing import Case, main

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
        self.assertGreaterEqual(len(rows), 17)
        for row in rows:
            self.assertLessEqual(row["error"], 1, row["kernel"])
            self.assertGreater(row["us"], 0, row["kernel"])
        self.assertEqual(names, ["kernel", *(row["kernel"] for row in rows)])
        self.assertEqual(self.names(self.bench(*small, "--filter", "gelu")), ["kernel", "copy", "gelu", "gelu backward"])

    def test_own_shapes(self):
        text = self.bench("gemm", "--shapes", "33,7,64;5,16,80:tn", "--forms", "int8_row")
        self.assertEqual(self.names(text)[1:3], ["33, 7, 64", "5, 16, 80 tn"])

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
