#!/usr/bin/env python3
"""Counts what really ran in a `ctest -V` log: `summarize.py LOG` prints P F S; `summarize.py LOG
--failures` prints the end of each failed test's output.

A doctest program counts by its test cases, a script that ends with `N passed, N failed, N skipped`
by that line, any other test as one. A program that ends badly (crash, time-out, sanitizer report)
counts as a failure even when its own summary shows none.
"""
import re
import sys

RESULT = re.compile(r"^\s*\d+/\d+ Test\s+#(\d+): (\S+).*?(Passed|\*\*\*\w+(?: Run)?)")
DOCTEST = re.compile(r"test cases:\s*\d+\s*\|\s*(\d+) passed\s*\|\s*(\d+) failed\s*\|\s*(\d+) skipped")
SCRIPT = re.compile(r"^(\d+) passed, (\d+) failed, (\d+) skipped$")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def counts_of(output, verdict):
    """(passed, failed, skipped) of one test from its output lines and ctest's verdict."""
    doctest = [tuple(map(int, m.groups())) for m in map(DOCTEST.search, output) if m]
    script = [tuple(map(int, m.groups())) for m in map(SCRIPT.match, output) if m]
    if doctest:
        passed, failed, skipped = map(sum, zip(*doctest))
    elif script:
        passed, failed, skipped = script[-1]
    elif verdict == "Passed":
        passed, failed, skipped = 1, 0, 0
    elif verdict == "***Skipped":
        passed, failed, skipped = 0, 0, 1
    else:
        passed, failed, skipped = 0, 1, 0
    if verdict not in ("Passed", "***Skipped") and failed == 0:
        failed = 1
    return passed, failed, skipped


def tests_in(log):
    """Yields (name, output lines, (passed, failed, skipped)) of each test."""
    output = {}
    for line in COLOUR.sub("", log).splitlines():
        result = RESULT.match(line)
        said = re.match(r"^(\d+): ?(.*)$", line)
        if result:
            number, name, verdict = result.groups()
            lines = output.get(number, [])
            yield name, lines, counts_of(lines, verdict)
        elif said:
            output.setdefault(said.group(1), []).append(said.group(2).rstrip())


def summarize(log):
    total = [sum(column) for column in zip(*(counts for _, _, counts in tests_in(log)))]
    return tuple(total) or (0, 0, 0)


def failures(log, last=60):
    for name, lines, (_, failed, _) in tests_in(log):
        if failed:
            yield "\n".join([f"--- {name}: {failed} failed; the end of its output:", *lines[-last:]])


def main():
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        log = file.read()
    if "--failures" in sys.argv:
        print("\n".join(failures(log)))
    else:
        print(*summarize(log))


if __name__ == "__main__":
    main()
