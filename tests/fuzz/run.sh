#!/usr/bin/env bash
# Fuzzes every parser; ends with `N passed, N failed, N skipped`, one for each target.
#   tests/fuzz/run.sh [--seconds N] [--jobs N] [--seed N]    N seconds a target (10), N at a time (the cores)
# One seed (1) tries the same inputs in the same order: CI does not depend on luck, other seeds look elsewhere.
# Needs clang 16 (apps/install_deps.sh --fuzz). Findings are left in build-test/fuzz-found; drive.sh says how and within what limits.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

mapfile -t targets < <(sed -nE 's/^foreach\(pair (.*)\)$/\1/p' tests/fuzz/fuzz.cmake | tr ' ' '\n' | cut -d : -f 1)
if ! command -v clang++-16 > /dev/null; then
  echo "no clang++-16 here: nothing is fuzzed"
  echo "0 passed, 0 failed, ${#targets[@]} skipped"
  exit 0
fi
build=build-test/sanitize jobs="$(nproc)"
for ((i = 1; i < $#; ++i)); do
  next=$((i + 1))
  if [[ "${!i}" == --jobs ]]; then jobs="${!next}"; fi
done
launcher=()
command -v ccache > /dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
if ! { cmake --preset cpu-fuzz -B "$build" "${launcher[@]}" &&
  cmake --build "$build" --parallel "$jobs" --target "${targets[@]/#/fuzz_}"; }; then
  echo "the fuzz targets do not build"
  echo "0 passed, ${#targets[@]} failed, 0 skipped"
  exit 1
fi
tests/fuzz/drive.sh "$build/tests" tests/fuzz/corpus "$PWD/build-test/fuzz-found" "$@"
