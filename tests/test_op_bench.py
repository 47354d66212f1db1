#!/usr/bin/env python3
"""`test_op_bench.py OP_BENCH [cuda]`: the speed driver runs every row at small shapes and is right about each."""
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

BENCH = sys.argv[1]
DEVICE = sys.argv[2] if len(sys.argv) > 2 else "cpu"


def run(*arguments):
    settings = {"--device": DEVICE, "--sizes": "small", "--repeats": "3"}
    settings |= dict(zip(arguments[::2], arguments[1::2]))
    return subprocess.run([BENCH, *(word for pair in settings.items() for word in pair)],
                          capture_output=True, text=True, timeout=600)


class OpBench(unittest.TestCase):
    def test_every_row_is_right_and_reported(self):
        with tempfile.TemporaryDirectory() as folder:
            file = pathlib.Path(folder, "rows.json")
            result = run("--json", str(file))
            wrong = [line for line in result.stdout.splitlines() if "WRONG" in line]
            self.assertEqual((result.returncode, wrong), (0, []), result.stderr)
            report = json.loads(file.read_text())
        rows = report["rows"]
        self.assertGreater(len(rows), 150)
        self.assertEqual(result.stdout.splitlines()[-1], f"{len(rows)} passed, 0 failed, 0 skipped")
        table = [line for line in result.stdout.splitlines() if line.startswith("|")]
        self.assertEqual(len(table), len(rows) + 2)
        self.assertEqual({row["dtype"] for row in rows}, {"f32", "bf16"})
        for row in rows:
            self.assertTrue(row["correct"], row)
            for part in ("forward", "forward_and_backward"):
                self.assertGreaterEqual(row[part]["runs"], 3)
                self.assertGreaterEqual(row[part]["median_us"], row[part]["least_us"])
                self.assertGreater(row[part]["gb_per_s"], 0)
        for rate in (report["copy_gb_per_s"], *report["product_gflop_per_s"].values()):
            self.assertGreater(rate, 0)

    def test_a_filter_and_a_dtype_choose_rows(self):
        lines = run("--filter", "gelu, erf", "--dtype", "bf16").stdout.splitlines()
        self.assertEqual([line.split(" | ")[:2] for line in lines if line.startswith("| gelu")],
                         [["| gelu, erf", "bf16"]])

    def test_bad_input_is_one_line(self):
        for arguments, message in (
                (("--filter", "gellu"), "op_bench: got filter 'gellu', expected part of a row's name\n"),
                (("--sizes", "huge"), "op_bench: unknown sizes: got 'huge', expected small, cpu or cuda\n"),
                (("--filter", "gelu", "--json", "/nowhere/x"), "op_bench: cannot write: got '/nowhere/x', "
                 "expected a file in a folder that is there\n"),
                (("--device", "tpu"), "device: ")):
            result = run(*arguments)
            self.assertEqual(result.returncode, 2, arguments)
            self.assertTrue(result.stderr.startswith(message), result.stderr)
            self.assertEqual(result.stderr.count("\n"), 1)


if __name__ == "__main__":
    if DEVICE != "cpu" and "no usable GPU" in run("--filter", "gelu").stderr:
        print("0 passed, 0 failed, 1 skipped")
        sys.exit(0)
    outcome = unittest.main(argv=sys.argv[:1], exit=False, verbosity=0).result
    failed = len(outcome.failures) + len(outcome.errors)
    print(f"{outcome.testsRun - failed} passed, {failed} failed, {len(outcome.skipped)} skipped")
    sys.exit(bool(failed))
