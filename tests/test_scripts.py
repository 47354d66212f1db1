#!/usr/bin/env python3
"""Tests of the test scripts themselves: a check that cannot fail is worth nothing."""
import argparse
import pathlib
import sys
import types
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE / "bench")]
import branches  # noqa: E402
import check_layout  # noqa: E402
import summarize  # noqa: E402

LOG = """\
test 1
    Start 1: tensor
1: Test command: build/tests/test_tensor
1: [doctest] test cases:  7 |  6 passed | 0 failed | 1 skipped
1: [doctest] assertions: 70 | 70 passed | 0 failed |
1/6 Test #1: tensor ...........................   Passed    0.01 sec
2: [doctest] test cases:  2 |  1 passed | 1 failed | 0 skipped
2/6 Test #2: quant ............................***Failed    0.01 sec
3: [doctest] test cases:  4 |  4 passed | 0 failed | 0 skipped
3: ==1==ERROR: LeakSanitizer: detected memory leaks
3/6 Test #3: io ...............................***Failed    0.01 sec
4/6 Test #4: cli ..............................***Exception: SegFault  0.02 sec
5: 3 passed, 0 failed, 2 skipped
5/6 Test #5: script ...........................   Passed    0.01 sec
6/6 Test #6: absent ...........................***Skipped   0.00 sec
"""


def tree(**files):
    """A stand-in for check_layout.Tree: keyword a__b_h becomes the file a/b.h."""
    named = {pathlib.Path(name.replace("__", "/").replace("_h", ".h")): text for name, text in files.items()}
    return types.SimpleNamespace(code=named, text=named, top=[])


class Summarize(unittest.TestCase):
    def test_counts_cases_scripts_crashes_and_leaks(self):
        self.assertEqual(summarize.summarize(LOG), (6 + 1 + 4 + 3, 1 + 1 + 1, 1 + 2 + 1))

    def test_failures_are_shown_with_their_output(self):
        shown = "\n".join(summarize.failures(LOG))
        for part in ("quant: 1 failed", "LeakSanitizer", "cli: 1 failed"):
            self.assertIn(part, shown)
        self.assertNotIn("tensor", shown)

    def test_nothing_ran(self):
        self.assertEqual(summarize.summarize("No tests were found!!!\n"), (0, 0, 0))

    def test_colours_and_timeouts(self):
        self.assertEqual(summarize.summarize("\x1b[0m1/1 Test #1: slow ...***Timeout 9.0 sec"), (0, 1, 0))


class Layout(unittest.TestCase):
    def test_layering_up_is_found(self):
        problems = list(check_layout.check_layering(tree(tensor__a_h='#include "quant/spec.h"\n')))
        self.assertEqual(len(problems), 1)

    def test_layering_down_is_fine(self):
        self.assertEqual(list(check_layout.check_layering(tree(models__a_h='#include "nn/linear.h"\n'))), [])

    def test_layering_siblings_in_both_directions_are_found(self):
        both = tree(nn__a_h='#include "optim/adam.h"\n', optim__a_h='#include "nn/linear.h"\n')
        self.assertEqual(len(list(check_layout.check_layering(both))), 1)

    def test_kernels_know_no_graph(self):
        bad = tree(quant__cpu__a_h='#include "autograd/var.h"\n', nn__a_h="#include <Eigen/Core>\n")
        self.assertEqual(len(list(check_layout.check_kernels(bad))), 2)

    def test_printing_and_exiting_are_found(self):
        bad = tree(quant__a_h="std::printf(x);\n", quant__b_h="std::exit(1);\n", quant__c_h="snprintf(b, 1, x);\n")
        self.assertEqual(len(list(check_layout.check_library_is_silent(bad))), 2)

    def test_copies_past_the_counter_are_found(self):
        call = "NIBBLE_CUDA_CHECK(cudaMemcpyAsync(to, from, n,\n    {}, stream()));\n"
        copies = tree(tensor__cuda__a_h=call.format("cudaMemcpyDeviceToDevice"),
                      tensor__cuda__b_h=call.format("cudaMemcpyDeviceToHost"))
        self.assertEqual([p.split(":")[0] for p in check_layout.check_copies(copies)], ["tensor/cuda/b.h"])
        for wait in ("cudaStreamSynchronize(s);", "cudaEventSynchronize(e);", "cudaDeviceSynchronize();",
                     "cudaHostAlloc(&p, 8, 0);", "cudaFree(p);", "cudaMemcpyFromSymbol(&x, y, 4);", "cuStreamSynchronize(s);"):
            self.assertEqual(len(list(check_layout.check_copies(tree(quant__cuda__a_h=wait)))), 1, wait)
        context = {pathlib.Path("tensor/cuda/context.cpp"): "cudaStreamSynchronize(s);\n"}
        self.assertEqual(list(check_layout.check_copies(types.SimpleNamespace(code=context))), [])

    def test_a_kernel_without_a_test_is_found(self):
        def problems(tests):
            files = {"tests/kernel_tests.txt": tests, "tests/op_table.cpp": '{.name = "add", .variant = "wide"}',
                     "tests/cuda/a.cpp": 'GPU_TEST("cuda a: sub") {}'}
            kernels = tree(tensor__kernels_h="NIBBLE_KERNEL(add, Tensor& y)\nNIBBLE_KERNEL(sub, Tensor& y)\n")
            kernels.text = {pathlib.Path(name): text for name, text in files.items()}
            return list(check_layout.check_kernel_tests(kernels))
        self.assertEqual(problems("# why\nadd: row add\nsub: case cuda a: sub\n"), [])
        for tests in ("add: row add\n", "add: row add\nsub: row sub\n", "add: row add\nsub: case cuda a: add\n",
                      "add: row wide\nsub: case cuda a: sub\n", "add: row add\nsub: case cuda a: sub\nmul: row add\n"):
            self.assertEqual(len(problems(tests)), 1, tests)

    def test_long_files_machine_paths_and_white_space_are_found(self):
        self.assertEqual(len(list(check_layout.check_file_sizes(tree(nn__a_h="\n" * 501)))), 1)
        machine_path = "/".join(("", "root", "x"))
        for text in ("no newline", "a \n", f"{machine_path}\n"):
            self.assertEqual(len(list(check_layout.check_text_form(tree(nn__a_h=text)))), 1, text)

    def test_broken_links_and_stray_folders_are_found(self):
        readme = types.SimpleNamespace(text={pathlib.Path("README.md"): "[x](no/such.md)\n"}, top=["docs"])
        self.assertEqual(len(list(check_layout.check_links(readme))), 1)
        self.assertEqual(len(list(check_layout.check_top_level(readme))), 1)

    def test_recipes_of_benchmarks_have_names(self):
        self.assertEqual(branches.branch_of("bf16"), ("bf16", "none", []))
        self.assertEqual(branches.branch_of("a=int8,layer:*.attn.qkv=none"), ("a", "int8,layer:*.attn.qkv=none", []))
        self.assertEqual(branches.branch_of("a=none,fprop=int8:row|int8:row:model.token_chunk=64:model.recompute=mlp"),
                         ("a", "none,fprop=int8:row|int8:row", ["model.token_chunk=64", "model.recompute=mlp"]))
        for text in ("none", "none,fprop=int8", "int8,lm_head=on", "none,moments.m=f32", "int8,layer:*.qkv=none", "bf16=int8", "a=", "=int8"):
            with self.subTest(text):
                self.assertRaises(argparse.ArgumentTypeError, branches.branch_of, text)


if __name__ == "__main__":
    result = unittest.main(exit=False, verbosity=0).result
    failed = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - failed} passed, {failed} failed, {len(result.skipped)} skipped")
    sys.exit(bool(failed))
