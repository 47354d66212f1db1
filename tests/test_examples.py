#!/usr/bin/env python3
"""The examples that are built with the tree: `test_examples.py MLP_INT8 GPT2_LOOP`."""
import pathlib
import re
import subprocess
import sys
import unittest

TEXT = pathlib.Path(__file__).resolve().parent.parent / "data/text/austen.txt"
MLP, GPT2 = sys.argv[1:3]


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, timeout=600)


class Examples(unittest.TestCase):
    def test_mlp_int8_learns_as_well_as_full_precision(self):
        done = run(MLP)
        self.assertEqual(done.returncode, 0, done.stderr)
        losses = {name: (float(first), float(last)) for name, first, last in
                  re.findall(r"^(\w+) +loss ([\d.]+) -> ([\d.]+)$", done.stdout, re.M)}
        self.assertEqual(set(losses), {"none", "int8"})
        for first, last in losses.values():
            self.assertLess(last, first / 2)
        self.assertNotEqual(losses["none"], losses["int8"])  # the recipe does something
        self.assertLess(losses["int8"][1], 1.1 * losses["none"][1])

    def test_gpt2_loop_learns(self):
        done = run(GPT2, str(TEXT), "int8", "40")
        self.assertEqual(done.returncode, 0, done.stderr)
        losses = [float(x) for x in re.findall(r"loss ([\d.]+)", done.stdout)]
        self.assertGreater(losses[0], 5)
        self.assertLess(losses[-1], 3.5)

    def test_gpt2_loop_names_what_is_wrong(self):
        for arguments in (["nowhere.txt"], [str(TEXT), "int7"]):
            done = run(GPT2, *arguments)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (1, 1), done.stderr)


if __name__ == "__main__":
    result = unittest.TextTestRunner(verbosity=2, stream=sys.stdout).run(
        unittest.defaultTestLoader.loadTestsFromTestCase(Examples))
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed, 0 skipped")
    sys.exit(bad != 0)
