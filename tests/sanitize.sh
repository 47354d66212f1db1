#!/usr/bin/env bash
# The GPU suite under compute-sanitizer, at small sizes:
#   tests/sanitize.sh [--seconds N] TEST_CUDA [TOOL…]
# TEST_CUDA is the program (build-cuda/tests/test_cuda), TOOLs are memcheck and racecheck unless given. Groups of cases run at once,
# each for at most N (900) seconds. Cases that are large on purpose are left out, and of those that consist of thousands of small ones
# (in_sample() in cuda/lockstep.h) one in 8 is run, under racecheck one in 24: a tool makes a kernel up to 1000 times slower. The last line is `N passed, N failed, N skipped`
# over groups and tools; a group that did not end in time counts as failed. Logs: build-test/sanitize/TOOL-GROUP.log.
set -uo pipefail
seconds=900
[[ "${1:-}" == --seconds ]] && { seconds="$2"; shift 2; }
(($# >= 1)) || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
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
mkdir -p "$logs"
rm -f "$logs"/*
large='*million*,*large*,*2^31*,*long*,*segments*,*slab*,cuda memory*,*chosen kernels*,*every way to cut*,*many rows*'
declare -A samples=([racecheck]=24) groups=(
  [elementwise]='cuda copy*,cuda elementwise*,cuda norm*,cuda reduce*,cuda softmax*,cuda random*'
  [dense]='cuda index*,cuda loss*,cuda matmul*'
  [attention]='cuda attention*'
  [quant]='cuda quant*,cuda scales*,cuda one pass*,cuda delayed*'
  [pairs]='cuda pair*'
  [products]='cuda int gemm*'
  [floats]='cuda fp8*,cuda plans*'
  [graph]='cuda graph*,cuda optim*'
  [steps]='cuda model*,cuda op table*,cuda sentinels*,cuda compare*'
)
run_group() { # TOOL GROUP
  local log="$logs/$1-$2.log" status=0 verdict=passed
  NIBBLE_TEST_SAMPLE="${samples[$1]:-8}" timeout --signal=INT --kill-after=20 "$seconds" compute-sanitizer --tool "$1" --error-exitcode 9 --print-limit 20 \
    --report-api-errors no "$program" -d -tc="${groups[$2]}" -tce="$large" > "$log" 2>&1 || status=$?
  # A program that was cut short has no summary of its own.
  ((status == 0)) && grep -q '0 failed' "$log" || verdict=failed
  touch "$logs/$1-$2.$verdict"
  printf '%-10s %-10s %s: %s cases, %s\n' "$1" "$2" "$verdict" "$(grep -cE '^[0-9.]+ s: ' "$log")" \
    "$(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$log" | tail -n 1 | sed 's/^=* *//' || true)"
  [[ "$verdict" == passed ]] || grep -E '=========.*(Invalid|Race|hazard|Error|leak)|ERROR' "$log" | head -n 12
}
for tool in "${tools[@]}"; do
  for group in "${!groups[@]}"; do run_group "$tool" "$group" & done
done
wait
count() { find "$logs" -name "*.$1" | wc -l; }
echo "$(count passed) passed, $(count failed) failed, 0 skipped"
(($(count passed) > 0 && $(count failed) == 0))
