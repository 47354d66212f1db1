#!/usr/bin/env python3
"""`test_bench.py NIBBLE [cuda]`: nibble bench at small sizes: every form and layout right, JSON whole, bad input in one line."""
import json
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time

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
            for key in ("sm_clock_mhz", "watts"):  # what isn't known isn't 0: on a GPU runs may be too short for a sample
                self.assertGreater(row.get(key, 1), 0, key)
                if DEVICE == "cpu":
                    self.assertNotIn(key, row)
        self.assertNotEqual(first["loss"], second["loss"])
        self.assertEqual((peer["tokens_per_second"], peer["loss"], peer["tensors_bytes"]), (13000, 7, 5 << 30))
        self.assertNotIn("host_seconds", peer)

    def test_train_lasts(self):
        """--least-seconds: a run goes on, is ended, and its loss is that of --steps; what it started ends with it."""
        steady = self.peer("steady", """import json, subprocess, sys, time
child = subprocess.Popen(["sleep", "1000"])
open(sys.argv[1], "w").write(str(child.pid))
for step in range(1, int(sys.argv[-1]) + 1):
    print(json.dumps({"step": step, "tokens_per_second": 100.0, "loss": step}), flush=True)
    time.sleep(0.01)
""") + f" '{self.folder / 'child'}'"
        file, seconds = self.folder / "lasts.json", 1 if DEVICE == "cpu" else 3
        self.ok("bench", "train", *self.small_run(), "--steps", 12, "--least-seconds", seconds, "--recipe", "none", "--peer", steady,
                "--json", file)
        own, peer = json.loads(file.read_text())["rows"]
        for row in (own, peer):
            self.assertGreaterEqual(row["seconds"], seconds)
            self.assertGreater(row["steps"], 12)
        for key in ("sm_clock_mhz", "watts"):
            self.assertEqual(key in own, DEVICE != "cpu", key)
        self.assertEqual(peer["loss"], 12)
        self.assert_ends(int((self.folder / "child").read_text()))

    def assert_ends(self, pid):
        state = pathlib.Path(f"/proc/{pid}/stat")
        for _ in range(200):
            try:
                if state.read_text().rsplit(")", 1)[1].split()[0] == "Z":
                    return  # it waits for whoever inherits it
            except FileNotFoundError:
                return
            time.sleep(0.05)
        self.fail("what the benchmark started still runs")

    def test_train_interrupted(self):
        pid = self.folder / "pid"
        endless = self.peer("endless", "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(1000)")
        config = self.small_run()
        command = [sys.argv[1], "bench", "train", *config, "--steps", "11", "--recipe", "none", "--peer", f"{endless} '{pid}'"]
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        told = process.communicate(timeout=60)[1]
        self.assertIn("bench: stopped by signal 2", told)
        self.assertRegex(told, r"^none: \d+ tokens/s, \d+\.\d+ GiB\n")  # what was measured is not lost
        self.assertEqual(process.returncode, 1)
        self.assert_ends(int(pid.read_text()))

    def test_train_kernels(self):
        run = ("bench", "train", *self.small_run(), "--steps", 12, "--recipe", "int8", "--kernels", 3)
        if DEVICE == "cpu":
            done = self.fails("bench: some runs failed", *run)
            self.assertTrue(any("kernels: got device cpu, expected a GPU" in line for line in done), done)
            return
        file = self.folder / "kernels.json"
        text = self.ok(*run, "--json", file)
        self.assertIn("| nothing runs |", text)
        row, = json.loads(file.read_text())["rows"]
        kernels = row["kernels"]
        self.assertEqual((row["steps"], kernels["steps"]), (15, 3))
        self.assertGreater(kernels["operations"]["int_products"], 0)
        self.assertGreater(sum(k["launches"] for k in kernels["kernels"]), 50)
        self.assertEqual([k["name"] for k in kernels["kernels"] if k["class"] == "other"], [])

    def test_llmc(self):
        script = pathlib.Path(__file__).resolve().parent / "bench/train_llmc.py"
        binary = self.folder / "train_gpt2cu"
        # As llm.c does, it divides by -v and wants shards for validation that hold a batch.
        binary.write_text("""#!/bin/sh
every=0
while [ $# -gt 1 ]; do case "$1" in -v) every=$2 ;; -j) shards=$2 ;; esac; shift 2; done
echo $((1 % every)) > /dev/null || exit 136
case "$shards" in *train*) ;; *) exit 134 ;; esac
echo "| device | NVIDIA |"
for i in $(seq 1 20); do
  echo "step   $i/20 | loss 9.87$i (+nanz)| norm 2.1 (+nanz)| lr 3.00e-04 | $i.50 ms | 48.6% bf16 MFU | 5661 tok/s"
done
""")
        binary.chmod(0o755)
        sizes = ["--layers", 12, "--heads", 12, "--width", 768, "--vocab", 50257, "--batch", 2, "--length", 16,
                 "--accumulation", 1, "--steps", 20]
        run = [sys.executable, script, binary, self.folder, *sizes]
        rows = [json.loads(line) for line in subprocess.check_output(list(map(str, run)), text=True).splitlines()]
        self.assertEqual([row["step"] for row in rows], list(range(1, 21)))
        self.assertEqual(rows[0]["loss"], 9.871)
        self.assertAlmostEqual(rows[3]["tokens_per_second"], 32 / 4.5e-3)
        for change, text in (({2: self.folder / "absent"}, "is no program"), ({9: 700}, "expected a GPT-2"),
                             ({11: 256}, "expected a GPT-2's")):
            wrong = [change.get(i, word) for i, word in enumerate(run)]
            done = subprocess.run(list(map(str, wrong)), capture_output=True, text=True)
            self.assertEqual(done.returncode, 1)
            self.assertRegex(done.stderr, f"^train_llmc: .*{text}")

    def test_llmc_tells_each_step(self):
        """llm.c does not flush what it prints: a step is told when it has been made all the same."""
        script = pathlib.Path(__file__).resolve().parent / "bench/train_llmc.py"
        binary = self.folder / "buffers"
        binary.write_text(f"""#!{sys.executable} -E
import time
print("step    1/2 | loss 9.5 (+nanz)| norm 2.1 | lr 3.00e-04 | 4.50 ms | 48.6% bf16 MFU")
time.sleep(1000)
""")
        binary.chmod(0o755)
        sizes = ["--layers", 12, "--heads", 12, "--width", 768, "--vocab", 50257, "--batch", 2, "--length", 16,
                 "--accumulation", 1, "--steps", 20]
        process = subprocess.Popen(list(map(str, [sys.executable, script, binary, self.folder, *sizes])), text=True,
                                   stdout=subprocess.PIPE, start_new_session=True)
        try:
            self.assertTrue(select.select([process.stdout], [], [], 30)[0])
            self.assertEqual(json.loads(process.stdout.readline())["step"], 1)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()

    def test_memory(self):
        file = self.folder / "memory.json"
        run = (*self.small_run(), "--threads", 2)  # kernels of a CPU take scratch by the thread, which no plan counts
        recipes = ["none", "int8", "fp8_delayed", "none,save=recompute", "int8,weights=bf16", "int8,weights=int8"]
        if DEVICE != "cpu":  # the CPU makes outputs again in scratch of its kernels, which no plan counts
            recipes.append("int8,save=recompute,output=recompute")
        text = self.ok("bench", "memory", *run, *(w for r in recipes for w in ("--recipe", r)), "--json", file)
        self.assertEqual(self.names(text), ["recipe", *recipes])
        for row in json.loads(file.read_text())["rows"]:
            self.assertLess(abs(row["planned_bytes"] - row["tensors_bytes"]), 0.03 * row["tensors_bytes"], row)
        text = self.ok("bench", "memory", *run, "--recipe", "int8", "--vary", "trainer.batch=2,4", "--json", file)
        names = ["int8; trainer.batch=2", "int8; trainer.batch=4"]
        self.assertEqual(self.names(text), ["recipe", *names])
        rows = json.loads(file.read_text())["rows"]
        self.assertEqual([row["name"] for row in rows], names)
        self.assertLess(rows[0]["tensors_bytes"], rows[1]["tensors_bytes"])
        self.fails("bench: --vary: got 'x', expected KEY=VALUE", "bench", "memory", *run, "--vary", "x")
        for flag, text, hint in (("--set", "recipe=int8", "as --recipe"), ("--set", "trainer.steps=5", "as --steps"),
                                 ("--vary", "recipe=none,int8", "as --recipe"), ("--set", "trainer.keep=1", "trainer.keep=0")):
            self.fails(f"bench: {flag} {text}: .*{hint}", "bench", "train", *run, flag, text)

    def test_train_bad_input(self):
        run = ("bench", "train", *self.small_run(), "--recipe", "none")
        self.fails("bench: --peer: got 'x', expected NAME=COMMAND", *run, "--peer", "x")
        self.fails("recipe: ", *run, "--recipe", "int9")
        self.fails("bench: --steps: got 10, expected more than", *run, "--steps", 10)
        self.fails("bench: --peer: got 'x= ', expected NAME=COMMAND", *run, "--peer", "x= ")
        self.fails("bench: --least-seconds: got 9, expected less than --seconds 5", *run, "--least-seconds", 9, "--seconds", 5)
        for part in ("train", "memory"):
            self.fails("bench: --json: got .*, expected a file in a folder that exists", "bench", part, *run[2:], "--json",
                       self.folder / "absent/rows.json")
        # What other programs do wrong costs their rows only.
        rows = self.folder / "rows.json"
        rubbish = self.peer("rubbish", """import json, sys
sys.stdout.buffer.write(bytes(range(256)) + b"\\n" + b"[" * 100000 + b"\\n")
for step in range(-20, 20):
    for row in ([step], {"step": step, "tokens_per_second": -1}, {"step": step, "tokens_per_second": 0},
                {"step": 1e30, "tokens_per_second": 1}, {"step": 10**30, "tokens_per_second": 1}, {"step": step},
                {"step": step, "tokens_per_second": "fast"}, {"step": step, "tokens_per_second": float("inf")}):
        print(json.dumps(row))
""")
        done = self.fails("bench: some runs failed", *run, "--steps", 11, "--peer", "x=absent-program", "--peer", rubbish, "--json",
                          rows)
        self.assertTrue(any("x: bench: absent-program cannot be started: No such" in line for line in done), done)
        own, absent, junk = json.loads(rows.read_text())["rows"]
        self.assertGreater(own["tokens_per_second"], 0)
        self.assertIn("cannot be started", absent["fault"])
        self.assertEqual(junk["fault"], "0 steps with a speed, expected more than 10")
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
