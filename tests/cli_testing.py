"""What the tests of the built program share."""
import array
import ast
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

TEXT = pathlib.Path(__file__).resolve().parent.parent / "data/text/austen.txt"

# A model that a step of takes milliseconds.
SMALL = {
    "model": {"layers": 1, "heads": 2, "width": 16, "context": 16},
    "trainer": {"batch": 4, "steps": 6, "lr": 1e-3, "warmup": 2, "eval_every": 0, "checkpoint_every": 2, "keep": 10,
                "log_every": 1},
}


def nibble(*arguments, fault=None, memory=None, cwd=None, **environ):
    """Runs the program: `fault` is NIBBLE_FAULT, `memory` NIBBLE_MEMORY_LIMIT, others go to the environment as named."""
    environment = {k: v for k, v in os.environ.items() if k not in ("NIBBLE_FAULT", "NIBBLE_MEMORY_LIMIT")} | environ
    if fault:
        environment["NIBBLE_FAULT"] = fault
    if memory:
        environment["NIBBLE_MEMORY_LIMIT"] = str(memory)
    # Kernels of the CPU take scratch by the thread, which no plan counts: limits are for two.
    return subprocess.run([sys.argv[1], *map(str, arguments)], capture_output=True, env=environment, cwd=cwd,
                          timeout=600, preexec_fn=two_processors if memory else None)


def two_processors():
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])


class Case(unittest.TestCase):
    """Runs the program; what a test leaves is in the class's folder."""

    def ok(self, *arguments, code=0, **options):
        done = nibble(*arguments, **options)
        self.assertEqual(done.returncode, code, done.stderr.decode(errors="replace"))
        return done.stdout.decode()

    def fails(self, pattern, *arguments, code=1, **options):
        """One line that matches, as the last of stderr, and nothing after it; nothing on stdout."""
        done = nibble(*arguments, **options)
        lines = done.stderr.decode().splitlines()
        self.assertEqual(done.returncode, code, lines)
        self.assertEqual([line.startswith("nibble: error: ") for line in lines].count(True), 1, lines)
        self.assertRegex(lines[-1].removeprefix("nibble: error: "), pattern)
        return lines


def write_config(path, config):
    path.write_text(json.dumps(config))
    return path


def make_tokens(folder, size=20000):
    """A text file of `size` bytes and its dataset of bytes, a fifth of it for validation."""
    text = folder / "text.txt"
    text.write_bytes(TEXT.read_bytes()[:size])
    done = nibble("tokenize", "--input", text, "--output", folder / "tokens", "--val-fraction", 0.2)
    assert done.returncode == 0, done.stderr
    return folder / "tokens"


class TrainedCase(Case):
    """Has a folder of its own with tokens, the configuration SMALL (of MODEL's changes) and a finished run, `whole`."""
    MODEL = {}
    TRAIN = ()  # further options

    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(tempfile.mkdtemp())
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        cls.tokens = make_tokens(cls.folder)
        config = SMALL | {"model": SMALL["model"] | cls.MODEL, "data": {"path": str(cls.tokens)}}
        cls.config = write_config(cls.folder / "small.jsonnet", config)
        cls.whole = cls.folder / "whole"
        done = nibble("train", "--config", cls.config, "--output", cls.whole, *cls.TRAIN)
        assert done.returncode == 0, done.stderr


def read_npy(path):
    """(dtype, shape, values in C order) of a .npy file of version 1.0, read as its specification says."""
    data = path.read_bytes()
    assert data[:8] == b"\x93NUMPY\x01\x00", data[:8]
    size = int.from_bytes(data[8:10], "little")
    assert (10 + size) % 64 == 0 and data[9 + size:10 + size] == b"\n", size
    header = ast.literal_eval(data[10:10 + size].decode("latin1"))
    assert sorted(header) == ["descr", "fortran_order", "shape"] and header["fortran_order"] is False, header
    values = array.array({"<f8": "d", "<f4": "f", "<i4": "i", "|i1": "b", "|u1": "B"}[header["descr"]])
    values.frombytes(data[10 + size:])
    assert len(values) == math.prod(header["shape"]), header
    return header["descr"], header["shape"], values.tolist()


def main():
    del sys.argv[2:]
    program = unittest.main(argv=sys.argv[:1], exit=False, verbosity=1)
    result = program.result
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad - len(result.skipped)} passed, {bad} failed, {len(result.skipped)} skipped")
    sys.exit(bool(bad))
