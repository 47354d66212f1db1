#!/usr/bin/env python3
"""Counts what really ran in a `ctest -V` log: `python3 tests/summarize.py LOG` prints P F S.

A doctest program counts by its test cases, a script that ends with `N passed, N failed, N skipped`
by that line, any other test as one. A program that ends badly (crash, time-out, sanitizer report)
counts as a failure even when its own summary shows none.
"""
import re
import sys

RESULT = re.compile(r"^\s*\d+/\d+ Test\s+#(\d+): .*?(Passed|\*\*\*\w+(?: Run)?)")
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


def summarize(log):
    output, total = {}, [0, 0, 0]
    for line in COLOUR.sub("", log).splitlines():
        result = RESULT.match(line)
        said = re.match(r"^(\d+): ?(.*)$", line)
        if result:
            counts = counts_of(output.get(result.group(1), []), result.group(2))
            total = [a + b for a, b in zip(total, counts)]
        elif said:
            output.setdefault(said.group(1), []).append(said.group(2).rstrip())
    return tuple(total)


if __name__ == "__main__":
    with open(sys.argv[1], encoding="utf-8", errors="replace") as file:
        print(*summarize(file.read()))
