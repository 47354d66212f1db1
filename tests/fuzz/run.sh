#!/usr/bin/env bash
# Fuzzes every parser; ends with `N passed, N failed, N skipped`, one for each target.
#   tests/fuzz/run.sh [--seconds N] [--jobs N] [--seed N]    N seconds a target (10), N at a time (the cores)
# One seed (1) tries the same inputs in the same order: CI does not depend on luck, other seeds look elsewhere.
# Needs clang (apps/install_deps.sh --fuzz). An input that breaks a target is left in build-test/fuzz-found/TARGET-…, new ones
# that reach new code in TARGET/ until the next run.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1

seconds=10 jobs="$(nproc)" seed=1
while (($#)); do
  case "$1" in
    --seconds) seconds="$2" ;;
    --jobs) jobs="$2" ;;
    --seed) seed="$2" ;;
    *)
      echo "fuzz: unknown option: got '$1', expected --seconds N, --jobs N or --seed N" >&2
      exit 2
      ;;
  esac
  shift 2
done

targets=(safetensors checkpoint tokenizer text shards config)
if ! command -v clang++ > /dev/null; then
  echo "no clang++ here: nothing is fuzzed"
  echo "0 passed, 0 failed, ${#targets[@]} skipped"
  exit 0
fi
build=build-test/fuzz found="$PWD/build-test/fuzz-found"
launcher=()
command -v ccache > /dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
if ! { cmake -S . -B "$build" -G Ninja "${launcher[@]}" -DCMAKE_CXX_COMPILER=clang++ -DNIBBLE_CUDA=OFF -DNIBBLE_FUZZ=ON \
  -DNIBBLE_SANITIZE=fuzzer-no-link,address,undefined -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE="-O1 -g1" &&
  cmake --build "$build" --parallel "$jobs" --target "${targets[@]/#/fuzz_}"; }; then
  echo "the fuzz targets do not build"
  echo "0 passed, ${#targets[@]} failed, 0 skipped"
  exit 1
fi

fuzz() { # TARGET
  rm -rf "${found:?}/$1"  # a seed repeats its inputs from the committed corpus only
  mkdir -p "$found/$1"
  # 5 seconds or 1 GiB for an input of at most 64 KiB are findings as well.
  if timeout $((seconds + 60)) "$build/tests/fuzz_$1" "$found/$1" "tests/fuzz/corpus/$1" -max_total_time="$seconds" -seed="$seed" \
    -max_len=65536 -timeout=5 -rss_limit_mb=1024 -artifact_prefix="$found/$1-" > "$found/$1.log" 2>&1; then
    echo "$1: $(tail -n 1 "$found/$1.log")"
  else
    echo "$1: a finding"
    tail -n 40 "$found/$1.log"
    touch "$found/$1.failed"
  fi
}
rm -f "$found"/*.failed
for target in "${targets[@]}"; do
  while (($(jobs -r | wc -l) >= jobs)); do wait -n; done
  fuzz "$target" &
done
wait
failed="$(find "$found" -maxdepth 1 -name '*.failed' | wc -l)"
echo "$((${#targets[@]} - failed)) passed, $failed failed, 0 skipped"
((failed == 0))
