#!/usr/bin/env bash
# Drives fuzz targets that are built; ends with `N passed, N failed, N skipped`, one for each target.
#   tests/fuzz/drive.sh PROGRAMS CORPUS FOUND [--seconds N] [--jobs N] [--seed N]
# PROGRAMS holds fuzz_TARGET…, CORPUS a folder of seeds for each. N seconds a target (10), N at a time (the cores). One seed (1)
# tries the same inputs in the same order. Over 2 seconds, 512 MB or one allocation of 512 MB for an input of at most 64 KiB is a
# finding too. An input that breaks a target is left as FOUND/TARGET-…, new ones that reach new code in FOUND/TARGET/.
set -uo pipefail
(($# >= 3)) || { sed -n '2,6s/^# \{0,1\}//p' "$0" >&2; exit 2; }
programs="$1" corpus="$2" found="$3" seconds=10 jobs="$(nproc)" seed=1
shift 3
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

mkdir -p "$found"
rm -f "$found"/*.failed "$found"/*.log
# Freed memory that ASan keeps to catch its use would soon be most of the 512 MB.
export ASAN_OPTIONS="quarantine_size_mb=16:${ASAN_OPTIONS:-}"
fuzz() { # TARGET
  rm -rf "${found:?}/$1"  # a seed repeats its inputs from the committed corpus only
  mkdir -p "$found/$1"
  local log="$found/$1.log" verdict="no finding"
  if ! timeout $((seconds + 60)) "$programs/fuzz_$1" "$found/$1" "$corpus/$1" -max_total_time="$seconds" -seed="$seed" \
    -max_len=65536 -timeout=2 -rss_limit_mb=512 -malloc_limit_mb=512 -print_final_stats=1 -artifact_prefix="$found/$1-" \
    > "$log" 2>&1; then
    verdict="A FINDING"
    touch "$found/$1.failed"
  fi
  local executions coverage
  executions="$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")"
  coverage="$(grep -o 'cov: [0-9]*' "$log" | tail -n 1)"
  if [[ -z "$coverage" && "$verdict" == "no finding" ]]; then  # then inputs are drawn blindly
    verdict="NO COVERAGE: the parsers are not instrumented"
    touch "$found/$1.failed"
  fi
  printf '%-12s %10s executions, %5s edges, %s\n' "$1" "${executions:-?}" "${coverage#cov: }" "$verdict"
  [[ "$verdict" == "no finding" ]] || grep -v '^#' "$log" | tail -n 40
}
targets=()
for program in "$programs"/fuzz_*; do
  [[ -x "$program" && ! -d "$program" ]] && targets+=("$(basename "$program" | sed s/^fuzz_//)")
done
((${#targets[@]})) || { echo "fuzz: got no fuzz_TARGET in $programs" >&2; exit 2; }
for target in "${targets[@]}"; do
  while (($(jobs -r | wc -l) >= jobs)); do wait -n; done
  fuzz "$target" &
done
wait
failed="$(find "$found" -maxdepth 1 -name '*.failed' | wc -l)"
echo "$((${#targets[@]} - failed)) passed, $failed failed, 0 skipped"
((failed == 0))
