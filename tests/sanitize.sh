#!/usr/bin/env bash
# The GPU suite under compute-sanitizer, at small sizes:
#   tests/sanitize.sh [--seconds N] [--jobs N] [--only PATTERN] TEST_CUDA [TOOL…]
# TEST_CUDA is the program (build-cuda/tests/test_cuda), TOOLs are memcheck and racecheck unless given. Every case (those whose name
# matches PATTERN, a doctest filter) is a process of its own, JOBS of them at once, all of them within N (1800) seconds. Cases that are
# large on purpose are left out, and of those that consist of thousands of small ones (in_sample.h) one in 8 is run,
# under racecheck one in 24: a tool makes a kernel up to 1000 times slower. racecheck looks into one kernel after another and so
# sees trainings of one block and three steps, of one recipe each (in_sample.h). What racecheck says of the kernels of cuBLASLt and cuDNN, whose
# barriers it does not follow, is counted as theirs. The last line is `N passed, N failed, N skipped` over cases and tools (skipped: there is no GPU); a case
# that did not end in time counts as failed. Logs: build-test/sanitize/TOOL/NUMBER.log, a line a case in build-test/sanitize/TOOL.txt.
set -uo pipefail
seconds=1800 jobs="$(nproc)" only='*'
while [[ "${1:-}" == --* ]]; do
  case "$1" in
    --seconds) seconds="$2" ;;
    --jobs) jobs="$2" ;;
    --only) only="$2" ;;
    *) set -- ;;
  esac
  shift 2 || break
done
(($# >= 1)) || { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }
program="$1"
shift
tools=("$@")
((${#tools[@]})) || tools=(memcheck racecheck)
[[ -x "$program" ]] || { echo "sanitize: got '$program', expected the program test_cuda" >&2; exit 2; }
PATH="$PATH:/usr/local/cuda/bin"
if ! command -v compute-sanitizer > /dev/null || [[ "$(nvidia-smi -L 2> /dev/null)" != *GPU* ]]; then
  echo "no GPU, or no compute-sanitizer: nothing was run"
  echo "0 passed, 0 failed, 1 skipped"
  exit 0
fi

logs="$(dirname "$0")/../build-test/sanitize"
rm -rf "$logs"
mkdir -p "$logs"
large='*million*,*large*,*2^31*,*long*,*segments*,*slab*,cuda memory*,*chosen kernels*,*every way to cut*,*many rows*'
# Cases that take long begin first.
slow='graph|in backward|attention: two|op table|sentinels|model|compare|pair|optim|plans|scales|quant:|int gemm'
mapfile -t cases < <("$program" -ltc -tc="$only" -tce="$large" | grep -vE '^(\[doctest\]|=====)' |
  awk -v slow="$slow" '{ print ($0 ~ slow ? 0 : 1) "\t" $0 }' | sort -s -k1,1 | cut -f2-)
((${#cases[@]})) || { echo "sanitize: no case matches '$only'" >&2; exit 2; }
end=$((SECONDS + seconds))

run_case() { # TOOL NUMBER NAME
  local log="$logs/$1/$2.log" begin=$SECONDS left=$((end - SECONDS)) status=0 verdict=passed options=(--error-exitcode 9) sample=8
  # A comma separates filters; a question mark stands for any character.
  local filter="${3//,/?}"
  [[ "$1" == racecheck ]] && sample=24 options=(--error-exitcode 0)
  if ((left > 5)); then
    NIBBLE_TEST_SAMPLE=$sample timeout --signal=INT --kill-after=10 "$left" compute-sanitizer --tool "$1" --print-limit 200 \
      --report-api-errors no "${options[@]}" "$program" -tc="$filter" -tce="$large" > "$log" 2>&1 || status=$?
    # A program that was cut short has no summary of its own.
    if ((status == 124 || status == 137)); then verdict='not ended'
    elif ((status != 0)) || ! grep -q '| 0 failed' "$log" || grep -q 'Race reported.*nibble::' "$log" ||
      grep -q 'Internal Sanitizer Error' "$log"; then verdict=failed; fi
  else
    verdict='not begun'
  fi
  printf '%s\t%s\t%d s\t%s\t%s\n' "$verdict" "$2" $((SECONDS - begin)) "$3" \
    "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" 2> /dev/null | tail -n 1 | sed 's/^=* *//')$(
      grep -q 'Race reported' "$log" 2> /dev/null && echo ", $(grep 'Race reported' "$log" | grep -vc nibble::) of a library's kernels"
    )" >> "$logs/$1.txt"
}
for tool in "${tools[@]}"; do
  mkdir -p "$logs/$tool"
  touch "$logs/$tool.txt"
done
for i in "${!cases[@]}"; do
  for tool in "${tools[@]}"; do
    while (($(jobs -rp | wc -l) >= jobs)); do wait -n; done
    run_case "$tool" "$i" "${cases[i]}" &
  done
done
wait

passed=0 failed=0
for tool in "${tools[@]}"; do
  good="$(grep -c '^passed' "$logs/$tool.txt")"
  bad=$((${#cases[@]} - good))
  ((passed += good, failed += bad))
  echo "$tool: $good of ${#cases[@]} cases clean; the longest:"
  sort -t$'\t' -k3,3 -rn "$logs/$tool.txt" | head -n 8 | cut -f1,3,4
  grep -v '^passed' "$logs/$tool.txt"
  while read -r number; do
    grep -E '=========.*(Invalid|Race|hazard|Error|leak)|ERROR' "$logs/$tool/$number.log" | cut -c1-300 | head -n 8
  done < <(grep '^failed' "$logs/$tool.txt" | cut -f2)
done
echo "$passed passed, $failed failed, 0 skipped"
((passed > 0 && failed == 0))
