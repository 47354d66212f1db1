#!/usr/bin/env bash
# A user's program outside the tree: installs the build in BUILD to a folder of its own, builds
# apps/examples/extension with find_package(nibble), trains with its quantizer, moment format and
# optimizer, and kills and resumes it.
#   tests/test_extension.sh BUILD
set -uo pipefail
build="$(realpath "${1:?the build folder}")"
cd "$(dirname "$0")/.." || exit 1
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

check() { # WHAT STATUS: counts it; a failure shows the end of the log
  if (($2 == 0)); then
    ((++passed))
    echo "ok     $1"
  else
    ((++failed))
    echo "FAILED $1"
    tail -n 20 "$work/log"
  fi
}
finish() {
  echo "$passed passed, $failed failed, 0 skipped"
  ((failed == 0))
  exit
}
must() { # WHAT COMMAND...: nothing after it makes sense without it
  local what="$1"
  shift
  "$@" > "$work/log" 2>&1
  check "$what" $?
  ((failed == 0)) || finish
}
train() { # FOLDER ARGUMENT...
  "$work/build/my_nibble" train --output "$work/$1" "${@:2}" > "$work/log" 2>&1
}

launcher=()
command -v ccache > /dev/null && launcher=(-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
must "installs" cmake --install "$build" --prefix "$work/prefix"
# The installed tree must not lean on the one it came from.
must "can be moved" mv "$work/prefix" "$work/moved"
# Each library that can be linked brings the headers of its folder.
libraries_have_headers() {
  local library name
  for library in "$work"/moved/lib*/nibble/libnibble_*.a "$work"/moved/lib*/*/nibble/libnibble_*.a; do
    [[ -e "$library" ]] || continue
    name="${library##*/libnibble_}" name="${name%.a}"
    compgen -G "$work/moved/include/nibble/$name/*.h" || compgen -G "$work/moved/include/nibble/apps/$name/*.h" ||
      { echo "$name has no headers"; return 1; }
  done
}
must "every library has its headers" libraries_have_headers
must "find_package finds it" cmake -S apps/examples/extension -B "$work/build" "${launcher[@]}" \
  -DCMAKE_PREFIX_PATH="$work/moved"
must "the extension builds" cmake --build "$work/build" --parallel 2
head -c 100000 data/text/austen.txt > "$work/text.txt"
must "tokenizes" "$work/build/my_nibble" tokenize --input "$work/text.txt" --output "$work/tokens" --val-fraction 0.1
must "lists the recipe" bash -c "'$work/build/my_nibble' recipes | grep '^my_ternary .*ternary'"

# A program finds the configs installed beside it by name; this one is built elsewhere, so by path.
settings=(--config "$work/moved/share/nibble/configs/tiny_int8.jsonnet" --set "data.path=$work/tokens"
  --set recipe=my_ternary --set optimizer.type=lion --set optimizer.m=log8 --set trainer.lr=1e-3 --set trainer.warmup=5
  --set trainer.steps=40 --set trainer.checkpoint_every=10 --set trainer.telemetry_every=0)
must "plans on the Meta device" "$work/build/my_nibble" train --output "$work/none" "${settings[@]}" --dry-run=plan
must "trains" train whole "${settings[@]}"
NIBBLE_FAULT=rename:3 train killed "${settings[@]}"
[[ $? == 137 && ! -e "$work/killed/checkpoints/step_00000040.safetensors" ]]
check "is killed while it writes a checkpoint" $?
must "resumes" train killed --resume
cmp "$work/whole/checkpoints/step_00000040.safetensors" "$work/killed/checkpoints/step_00000040.safetensors" \
  > "$work/log" 2>&1
check "ends with the same bytes" $?
# An untrained model has ln 257 = 5.55 nats.
"$work/build/my_nibble" eval --checkpoint "$work/whole" --json > "$work/log" 2>&1
python3 -c 'import json, sys; sys.exit(not 1 < json.load(open(sys.argv[1]))["loss"] < 4)' "$work/log"
check "has learned something" $?
train plain "${settings[@]}" --set optimizer.m=f32
[[ "$(stat -c %s "$work/whole/checkpoints/step_00000040.safetensors")" -lt \
  "$(($(stat -c %s "$work/plain/checkpoints/step_00000040.safetensors") * 3 / 4))" ]]
check "log8 moments make a smaller checkpoint" $?
finish
