#!/usr/bin/env bash
# The test command. The last line is `N passed, N failed, N skipped`, over every doctest case and script
# check of every stage; the exit status is 0 only if something passed and nothing failed.
#   tests/run.sh           checks, CPU Release suite, the suite under ASan + UBSan, the parsers fuzzed for some seconds,
#                          the CUDA build where nvcc is
#   tests/run.sh --quick   checks and the CPU Release suite
#   tests/run.sh --gpu     the suite of the CUDA build, on a GPU
# Builds lie in build-test/ and are reused; the log of each stage is build-test/STAGE.log.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

mode=full
case "${1:-}" in
  "") ;;
  --quick | --gpu) mode="${1#--}" ;;
  -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  *)
    echo "run: unknown option: got '$1', expected --quick or --gpu" >&2
    exit 2
    ;;
esac

root=build-test
jobs="$(nproc)"
passed=0 failed=0 skipped=0
mkdir -p "$root"

add() { # STAGE PASSED FAILED SKIPPED
  ((passed += $2, failed += $3, skipped += $4))
  printf '%-12s %5d passed %3d failed %3d skipped  (%d s so far)\n' "$1" "$2" "$3" "$4" "$SECONDS"
}

check_script() { # STAGE COMMAND...: a script that ends with the summary line
  local stage="$1" log="$root/$1.log" status=0 p f s
  shift
  "$@" > "$log" 2>&1 || status=$?
  read -r p f s <<< "$(sed -nE '$s/^([0-9]+) passed, ([0-9]+) failed, ([0-9]+) skipped$/\1 \2 \3/p' "$log")"
  : "${p:=0}" "${f:=0}" "${s:=0}"
  ((f == 0 && (status != 0 || p + s == 0))) && f=1
  ((f)) && cat "$log"
  add "$stage" "$p" "$f" "$s"
}

check_format() {
  local sources
  if ! command -v clang-format > /dev/null; then
    echo "clang-format is not installed: formatting is not checked"
    add format 0 0 1
    return
  fi
  mapfile -t sources <<< "$(find tensor quant autograd nn optim models data apps tests \
    -name ptx -prune -o \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print | sort)"
  if clang-format --dry-run -Werror "${sources[@]}" > "$root/format.log" 2>&1; then
    add format 1 0 0
  else
    grep -E 'error:' "$root/format.log" | cut -d: -f1 | sort | uniq -c
    echo "format: run clang-format -i on these files"
    add format 0 1 0
  fi
}

targets=() # what build makes; all when empty
build() { # STAGE CMAKE-OPTION...: configures and builds $root/STAGE
  local stage="$1" log="$root/$1-build.log" launcher=()
  shift
  command -v ccache > /dev/null &&
    launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  if ! { cmake -S . -B "$root/$stage" -G Ninja "${launcher[@]}" "$@" &&
    cmake --build "$root/$stage" --parallel "$jobs" ${targets:+--target "${targets[@]}"}; } > "$log" 2>&1; then
    grep -nE -A3 'error|Error|FAILED' "$log" | head -60
    echo "$stage: the build failed; all of it is in $log"
    add "$stage" 0 1 0
    return 1
  fi
}

suite() { # STAGE: runs every test of $root/STAGE
  local log="$root/$1.log" status=0 p f s
  ctest --test-dir "$root/$1" --verbose --timeout 900 --parallel "$jobs" > "$log" 2>&1 || status=$?
  read -r p f s <<< "$(python3 tests/summarize.py "$log")"
  ((f == 0 && (status != 0 || p == 0))) && f=1
  if ((f)); then
    python3 tests/summarize.py "$log" --failures
  fi
  add "$1" "$p" "$f" "$s"
}

gpu_cases() { # the number of test cases that need a GPU in $root/cuda
  local program n total=0
  for program in "$root"/cuda/tests/test_*; do
    [[ -f "$program" && -x "$program" ]] || continue
    n="$("$program" --list-test-cases --no-skip --test-case='cuda *' | sed -n 's/.*current filters: //p')"
    ((total += ${n:-0}))
  done
  echo "$total"
}

cuda_stage() {
  if ! command -v nvcc > /dev/null && [[ -x /usr/local/cuda/bin/nvcc ]]; then
    PATH="$PATH:/usr/local/cuda/bin"
  fi
  if ! command -v nvcc > /dev/null; then
    echo "no nvcc here: the CUDA build is not tested"
    add cuda 0 0 1
    return
  fi
  apps/install_deps.sh --gpu || true  # without cuDNN's frontend the build says so and leaves it out
  if [[ "$(nvidia-smi -L 2> /dev/null)" == *GPU* ]]; then
    build cuda -DNIBBLE_CUDA=ON -DNIBBLE_WERROR=ON && suite cuda
  elif [[ "$mode" == gpu ]]; then
    echo "no GPU here: nothing was run"
    add cuda 0 0 1
  elif targets=(nibble test_cuda test_cuda_long) && build cuda -DNIBBLE_CUDA=ON -DNIBBLE_WERROR=ON; then
    echo "no GPU here: the CUDA build compiles and links, its GPU tests are skipped"
    add cuda 1 0 "$(gpu_cases)"
  fi
}

if ! apps/install_deps.sh; then
  add set-up 0 1 0
elif [[ "$mode" == gpu ]]; then
  cuda_stage
else
  apps/install_deps.sh --browser || echo "no chromium: reports are not looked at in a browser"
  check_script layout python3 tests/check_layout.py
  check_script scripts python3 tests/test_scripts.py
  check_format
  build release -DNIBBLE_CUDA=OFF -DNIBBLE_WERROR=ON && suite release
  if [[ "$mode" == full ]]; then
    apps/install_deps.sh --fuzz || echo "no clang: the parsers are not fuzzed"
    sanitizers=cpu-debug
    command -v clang++-16 > /dev/null && sanitizers=cpu-fuzz  # one build for the suite and for libFuzzer
    build sanitize --preset "$sanitizers" && UBSAN_OPTIONS=print_stacktrace=1 suite sanitize
    check_script fuzz tests/fuzz/run.sh --seconds 10
    cuda_stage
  fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
((passed > 0 && failed == 0))
