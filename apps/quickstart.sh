#!/usr/bin/env bash
# From a fresh Debian 12 machine to two trained models: a small GPT-2 on the text in data/text, once with 8-bit
# weights, activations, gradients and moments on integers, once unquantized; then both losses and a sample.
# Under 10 minutes on 2 cores. Needs root or sudo only if packages are missing.
#   apps/quickstart.sh [FOLDER]    where the runs go; out/quickstart unless given
set -euo pipefail
cd "$(dirname "$0")/.."

config=apps/configs/quickstart.jsonnet
text=data/text/austen.txt
nibble=build/apps/nibble
prompt="It is a truth universally acknowledged"

case "${1:-}" in
  -h | --help)
    sed -n '2,5s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  -*)
    echo "quickstart: unknown option: got '$1'" >&2
    exit 2
    ;;
esac

out="${1:-out/quickstart}"
if [[ -z "${1:-}" ]]; then # a run is never overwritten: the next free name
  for ((n = 2; ; ++n)); do
    [[ -e "$out" ]] || break
    out="out/quickstart-$n"
  done
elif [[ -e "$out" ]]; then
  echo "quickstart: $out exists already; give another folder" >&2
  exit 1
fi
mkdir -p "$out"
log="$out/quickstart.log"

say() { printf '[%3d s] %s\n' "$SECONDS" "$*"; }

quietly() { # COMMAND...: its output goes to the log, and its end to the terminal if it fails
  "$@" >> "$log" 2>&1 || {
    local status=$?
    tail -n 30 "$log" >&2
    echo "quickstart: failed: $* (all output: $log)" >&2
    exit "$status"
  }
}

# Sets cuda and device. A GPU serves with an nvcc that is no newer than its driver, when the kernels are for it.
choose_device() {
  cuda=OFF device=cpu
  local driver compiler capability
  [[ "$(nvidia-smi -L 2> /dev/null)" == *GPU* ]] || return 0
  driver="$(nvidia-smi | sed -nE 's/.*CUDA Version: ([0-9]+\.[0-9]+).*/\1/p')"
  capability="$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2> /dev/null | head -n 1)"
  PATH="$PATH:/usr/local/cuda/bin"
  compiler="$(nvcc --version 2> /dev/null | sed -nE 's/.*release ([0-9]+\.[0-9]+).*/\1/p' || true)"
  if [[ -z "$compiler" ]]; then
    say "a GPU is here (driver: CUDA ${driver:-unknown}), but no nvcc: using the CPU"
  elif [[ -z "$driver" || "${compiler%.*}" -gt "${driver%.*}" ]]; then
    say "a GPU is here, but nvcc $compiler does not match its driver (CUDA ${driver:-unknown}): using the CPU"
  elif [[ "$capability" != 9.0 ]]; then
    say "a GPU is here, but of compute capability ${capability:-unknown}; the kernels are for 9.0: using the CPU"
  else
    cuda=ON device=cuda
    say "using the GPU: $(nvidia-smi --query-gpu=name --format=csv,noheader | head -n 1), nvcc $compiler"
    apps/install_deps.sh --gpu
  fi
}

train() { # NAME RECIPE
  say "training $1 (recipe $2)"
  # The progress lines are the interesting part: they go to the terminal too.
  "$nibble" train --config "$config" --set "recipe=$2" --set "data.path=$out/tokens" \
    --device "$device" --output "$out/$1" 2>&1 | tee -a "$log"
}

bits_per_byte() { # NAME: of the validation part, by a model's last checkpoint
  "$nibble" eval --checkpoint "$out/$1" --device "$device" 2>&1 | tee -a "$log" |
    sed -nE 's/(.*[^0-9.])?([0-9]+\.[0-9]+) bits a byte.*/\2/p' | tail -n 1
}

say "packages"
apps/install_deps.sh
choose_device
say "building (log: $log)"
quietly cmake -S . -B build -G Ninja -DCMAKE_BUILD_TYPE=Release -DNIBBLE_CUDA="$cuda"
quietly cmake --build build --target nibble --parallel "$(nproc)"
say "tokenizing $text: bytes, the last 10 % for validation"
quietly "$nibble" tokenize --input "$text" --output "$out/tokens" --val-fraction 0.1
train int8 int8
train unquantized none

int8="$(bits_per_byte int8)" || int8=
unquantized="$(bits_per_byte unquantized)" || unquantized=
if [[ -z "$int8" || -z "$unquantized" ]]; then
  tail -n 5 "$log" >&2
  echo "quickstart: 'nibble eval' gave no loss (all output: $log)" >&2
  exit 1
fi
echo
echo "validation loss, bits a byte"
printf '  %-46s %s\n' "int8 weights, activations, gradients, moments" "$int8" "unquantized" "$unquantized"
echo
echo "a sample of the int8 model:"
"$nibble" generate --checkpoint "$out/int8" --prompt "$prompt" --tokens 300 --device "$device" 2>> "$log"
echo
"$nibble" report "$out" --output "$out/report.html" 2>&1 | tee -a "$log"
say "done; runs, checkpoints and metrics are in $out, the report is $out/report.html"
