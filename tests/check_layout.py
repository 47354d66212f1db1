#!/usr/bin/env python3
"""Checks what the compiler cannot: the layout, the layering of includes, file sizes, notices.

Prints one line a check and ends with `N passed, N failed, N skipped`. Needs no build and no git.
"""
import fnmatch
import hashlib
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
LAYERS = {"tensor": 0, "quant": 1, "autograd": 2, "nn": 3, "optim": 3, "models": 4, "data": 4, "apps": 5}
TOP_LEVEL = set(LAYERS) | {
    "tests", "CMakeLists.txt", "CMakePresets.json", "README.md", "CONTRIBUTING.md", "CHANGELOG.md",
    "CITATION.cff", "LICENSE", "NOTICE", "THIRD_PARTY_NOTICES.md", ".ci", ".clang-format",
    ".clang-tidy", ".git", ".gitignore", ".gitattributes", "shared",
}
CODE = {".h", ".cpp", ".cu", ".cuh"}
TEXT = CODE | {".py", ".sh", ".cmake", ".md", ".jsonnet", ".libsonnet", ".cff", ".in"}
MAX_LINES = 500
MAX_README_LINES = 80
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.M)
KERNEL = re.compile(r"^NIBBLE_KERNEL\((\w+)", re.M)
# Calls that copy between host and device, wait for the device (allocation does), or let it write host memory:
# they would pass by the counter of tensor/cuda/context.h, and with it the tests that no op does so.
WAITS = re.compile(
    r"\b(?:cudaMemcpy\w*|cuMemcpy\w*|cudaMalloc\w*|cudaFree\w*|cudaHostAlloc|cudaHostRegister|"
    r"cudaStreamSynchronize|cuStreamSynchronize|cudaDeviceSynchronize|cuCtxSynchronize|cudaEventSynchronize|"
    r"cuEventSynchronize|cudaStreamQuery|cudaEventQuery)\s*\([^;]*")
MAY_WAIT = {"tensor/cuda/context.cpp"}
SPEAKS = re.compile(
    r"\b(?:std::)?(?:f?printf|puts|fputs|perror|exit|quick_exit|abort)\s*\(|\bstd::c(?:out|err|log)\b|\bfmt::print\b")


def ignored_patterns():
    lines = (ROOT / ".gitignore").read_text().split()
    return [line.strip("/") for line in lines if not line.startswith("#")]


def walk(folder, ignored):
    """Every file that .gitignore does not name, sorted."""
    for path in sorted(folder.iterdir()):
        if path.name == ".git" or any(fnmatch.fnmatch(path.name, pattern) for pattern in ignored):
            continue
        if path.is_dir() and not path.is_symlink():
            yield from walk(path, ignored)
        else:
            yield path.relative_to(ROOT)


def without_comments(text):
    return re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)


class Tree:
    """The files, and the text of those that are text."""

    def __init__(self):
        ignored = ignored_patterns()
        self.top = [p.name for p in ROOT.iterdir()
                    if not any(fnmatch.fnmatch(p.name, pattern) for pattern in ignored)]
        self.files = [p for p in walk(ROOT, ignored) if p.parts[0] != "shared"]
        self.text = {p: (ROOT / p).read_text(encoding="utf-8") for p in self.files
                     if p.suffix in TEXT or p.name in ("CMakeLists.txt", "kernel_tests.txt", "run")}
        self.code = {p: without_comments(text) for p, text in self.text.items()
                     if p.suffix in CODE and p.parts[0] in LAYERS}


def check_top_level(tree):
    for name in sorted(set(tree.top) - TOP_LEVEL):
        yield f"{name}: not in the agreed layout"


def check_file_sizes(tree):
    for path, text in tree.text.items():
        if "ptx" in path.parts:  # generated
            continue
        lines = text.count("\n")
        if lines > MAX_LINES:
            yield f"{path}: {lines} lines, at most {MAX_LINES}"


def check_text_form(tree):
    for path, text in tree.text.items():
        if "\r" in text or (text and not text.endswith("\n")):
            yield f"{path}: lines must end with LF, the last one too"
        if re.search(r"[ \t]+$", text, re.M):
            yield f"{path}: trailing white space"
        if re.search(r"(?<![\w.])/(?:work|root|home)/\w", text):
            yield f"{path}: names a path of one machine"


def check_layering(tree):
    """Includes go down the layers; layers of one height use one another in one direction only."""
    sideways = {}
    for path, text in tree.code.items():
        layer = path.parts[0]
        for _, target in INCLUDE.findall(text):
            other = target.split("/")[0]
            if "/" not in target or other not in LAYERS or other == layer:
                continue
            if LAYERS[other] > LAYERS[layer]:
                yield f"{path}: {layer} may not include {target}"
            elif LAYERS[other] == LAYERS[layer]:
                sideways.setdefault((layer, other), path)
    for (layer, other), path in sideways.items():
        if (other, layer) in sideways and layer < other:
            yield f"{path}: {layer} and {other} include each other"


def check_kernels(tree):
    """Kernel folders know tensors and quantization but no graph; the library uses Eigen in cpu/ only."""
    for path, text in tree.code.items():
        is_kernel = path.parent.name in ("cpu", "cuda") or "ptx" in path.parts
        for _, target in INCLUDE.findall(text):
            other = target.split("/")[0]
            if is_kernel and "/" in target and other in LAYERS and other not in ("tensor", "quant", path.parts[0]):
                yield f"{path}: a kernel may not include {target}"
            if other in ("Eigen", "unsupported") and path.parent.name != "cpu" and path.parts[0] != "apps":
                yield f"{path}: Eigen belongs in a cpu/ folder"


def check_library_is_silent(tree):
    for path, text in tree.code.items():
        found = SPEAKS.search(text) if path.parts[0] != "apps" else None
        if found:
            yield f"{path}: the library never prints and never exits: {found.group(0).strip()}"


def check_copies(tree):
    """Copies on the device are no copies to the host: they may stand anywhere."""
    for path, text in tree.code.items():
        if path.as_posix() in MAY_WAIT:
            continue
        for call in WAITS.findall(text):
            name = call.split("(")[0].strip()
            if not (name.startswith("cudaMemcpy") and "cudaMemcpyDeviceToDevice" in call):
                yield f"{path}: {name} belongs in {', '.join(sorted(MAY_WAIT))}, where it is counted"


def check_kernel_tests(tree):
    """Every kernel pair has a row of the op table or a case on both devices (tests/kernel_tests.txt)."""
    kernels = {name for path, text in tree.code.items() if path.suffix == ".h" for name in KERNEL.findall(text)}
    tests = {path: text for path, text in tree.text.items() if path.parts[0] == "tests"}
    rows, cases = set(), set()
    for path, text in tests.items():
        if path.name.startswith("op_table"):
            rows.update(re.findall(r'(?:\.name = |\b\w+\(\s*)"([a-z_]+)"', text))
        if path.parent.name == "cuda":
            cases.update(re.findall(r'(?:GPU_TEST|TEST_CASE)\(\s*"([^"]+)"', text))
    listed = set()
    for line in tests.get(pathlib.Path("tests/kernel_tests.txt"), "").splitlines():
        if not line or line.startswith("#"):
            continue
        kernel, _, proof = line.partition(": ")
        kind, _, name = proof.partition(" ")
        listed.add(kernel)
        if kernel not in kernels:
            yield f"tests/kernel_tests.txt: {kernel} is no kernel"
        elif name not in {"row": rows, "case": cases}.get(kind, ()):
            yield f"tests/kernel_tests.txt: {kernel}: no {kind} '{name}'"
    for kernel in sorted(kernels - listed):
        yield f"{kernel}: no row of the op table and no case runs it; name one in tests/kernel_tests.txt"


def check_headers(tree):
    for path, text in tree.text.items():
        if path.suffix in (".h", ".cuh") and "#pragma once" not in text:
            yield f"{path}: no #pragma once"


def check_readmes(tree):
    for folder in [*LAYERS, "tests"]:
        text = tree.text.get(pathlib.Path(folder, "README.md"))
        if text is None:
            yield f"{folder}/README.md: missing"
        elif text.count("\n") > MAX_README_LINES:
            yield f"{folder}/README.md: {text.count(chr(10))} lines, at most {MAX_README_LINES}"


def check_links(tree):
    for path, text in tree.text.items():
        if path.suffix != ".md":
            continue
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
            if "://" not in target and not (ROOT / path.parent / target).exists():
                yield f"{path}: links to {target}, which is not there"


def check_notices(tree):
    license_text = (ROOT / "LICENSE").read_text()
    if "Apache License" not in license_text or "Version 2.0" not in license_text:
        yield "LICENSE: not the Apache License, version 2.0"
    notices = tree.text[pathlib.Path("THIRD_PARTY_NOTICES.md")]
    script = tree.text[pathlib.Path("apps/install_deps.sh")]
    needed = script.split("packages=(", 1)[1].split(")", 1)[0].split()
    for package in needed:
        if package.endswith("-dev") and f"`{package}`" not in notices:
            yield f"THIRD_PARTY_NOTICES.md: does not name {package}"


def check_shipped_text(tree):
    text, readme = ROOT / "data/text/austen.txt", tree.text[pathlib.Path("data/text/README.md")]
    if hashlib.sha256(text.read_bytes()).hexdigest() not in readme:
        yield "data/text/austen.txt: its sha256 is not the one in data/text/README.md"


CHECKS = (check_top_level, check_file_sizes, check_text_form, check_layering, check_kernels,
          check_library_is_silent, check_copies, check_kernel_tests, check_headers, check_readmes, check_links, check_notices,
          check_shipped_text)


def main():
    tree = Tree()
    failed = 0
    for check in CHECKS:
        problems = list(check(tree))
        failed += bool(problems)
        print(f"{'FAILED' if problems else 'ok':6} layout: {check.__name__.removeprefix('check_').replace('_', ' ')}")
        for problem in problems:
            print(f"       {problem}")
    print(f"{len(CHECKS) - failed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
