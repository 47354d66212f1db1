#!/usr/bin/env python3
"""`test_bench.py NIBBLE [cuda]`: nibble bench at small sizes: every form and layout right, JSON whole, bad input in one line."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

NIBBLE = pathlib.Path(sys.argv[1]).resolve()
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"
FORMS = ["int8_row", "int8_group128", "int8_group256", "int4_row", "fp8_tensor", "fp8_row"]


def run(*args):
    return subprocess.run([NIBBLE, "bench", *args], capture_output=True, text=True, timeout=120)


class Bench(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="nibble-bench-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def test_gemm(self):
        file = self.folder / "gemm.json"
        done = run("gemm", "--device", DEVICE, "--shapes", "small", "--forms", ",".join(FORMS), "--repeats", "3",
                   "--json", file)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
        self.assertEqual([line.split("|")[1].strip() for line in lines],
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
        done = run("kernels", "--device", DEVICE, "--tokens", "256", "--width", "128", "--vocab", "300", "--repeats", "3",
                   "--json", file)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        rows = json.loads(file.read_text())["rows"]
        self.assertEqual(rows[0]["kernel"], "copy")
        self.assertEqual(rows[0]["bytes"], 4 * 256 * 128)
        self.assertGreaterEqual(len(rows), 17)
        for row in rows:
            self.assertLessEqual(row["error"], 1, row["kernel"])
            self.assertGreater(row["us"], 0, row["kernel"])
            self.assertIn(f"| {row['kernel']} |", done.stdout)
        done = run("kernels", "--device", DEVICE, "--tokens", "256", "--width", "128", "--vocab", "300", "--repeats", "3",
                   "--filter", "gelu")
        self.assertEqual([line.split("|")[1].strip() for line in done.stdout.splitlines() if line.startswith("| ")],
                         ["kernel", "copy", "gelu", "gelu backward"])

    def test_own_shapes(self):
        done = run("gemm", "--device", DEVICE, "--shapes", "33,7,64;5,16,80:tn", "--forms", "int8_row", "--repeats", "3")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("| 33, 7, 64 |", done.stdout)
        self.assertIn("| 5, 16, 80 tn |", done.stdout)

    def test_bad_input(self):
        for args, what in ((["--shapes", "1,2"], "expected M,N,K"), (["--shapes", "1,2,3:tt"], "expected M,N,K"),
                           (["--shapes", "0,2,3"], "expected M,N,K"), (["--shapes", "1,2,x"], "expected M,N,K"),
                           (["--shapes", "1,2,3;"], "expected M,N,K"), (["--forms", "int9"], "expected int8_row"),
                           (["--repeats", "1"], "repeats")):
            done = run("gemm", "--device", DEVICE, *args)
            self.assertNotEqual(done.returncode, 0, args)
            self.assertIn(what, done.stderr, args)
            self.assertEqual(done.stdout, "", args)
        self.assertNotEqual(run().returncode, 0)
        done = run("kernels", "--device", DEVICE, "--tokens", "100")
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("multiple of 256", done.stderr)


if __name__ == "__main__":
    result = unittest.TextTestRunner(verbosity=0).run(unittest.defaultTestLoader.loadTestsFromTestCase(Bench))
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed - len(result.skipped)} passed, {failed} failed, {len(result.skipped)} skipped")
    sys.exit(failed > 0)
