#!/usr/bin/env bash
# Installs the Debian 12 packages that Nibble needs to build and test; does nothing when they are there.
#   apps/install_deps.sh           install what is missing (as root, or through sudo)
#   apps/install_deps.sh --check   only name what is missing; exit 1 if anything is
#   apps/install_deps.sh --dev     also what contributors use: clang-format, clang-tidy, shellcheck
#   apps/install_deps.sh --gpu     also the headers that attention on cuDNN needs, from PyPI, into .deps/
#   apps/install_deps.sh --browser also chromium, in which a test looks at reports
#   apps/install_deps.sh --fuzz    also clang 16, which sanitizes the suite and fuzzes the parsers
set -euo pipefail

packages=(
  g++ cmake ninja-build python3
  libeigen3-dev doctest-dev libfmt-dev nlohmann-json3-dev libcli11-dev libjsonnet-dev
  libpcre2-dev zlib1g-dev liblzma-dev libxxhash-dev libopenblas-dev pkg-config
  ccache  # the Release and the CUDA build compile the same units
)
developer_packages=(clang-format clang-tidy shellcheck)

usage() {
  sed -n '2,8s/^# \{0,1\}//p' "$0"
  exit "$1"
}

check_only=0 gpu=0
for argument in "$@"; do
  case "$argument" in
    --check) check_only=1 ;;
    --dev) packages+=("${developer_packages[@]}") ;;
    --browser) packages+=(chromium) ;;
    --fuzz) packages+=(clang-16 libclang-rt-16-dev) ;;
    --gpu)
      gpu=1
      packages+=(python3-pip)
      ;;
    -h | --help) usage 0 ;;
    *)
      echo "install_deps: unknown option: got '$argument'" >&2
      usage 2 >&2
      ;;
  esac
done

if ! command -v dpkg-query > /dev/null; then
  echo "install_deps: not a Debian system; install the counterparts of: ${packages[*]}" >&2
  exit 2
fi

is_installed() {
  [[ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2> /dev/null)" == installed ]]
}

# pkgconf serves pkg-config's purpose under the same command name.
missing=()
for package in "${packages[@]}"; do
  [[ "$package" == pkg-config ]] && command -v pkg-config > /dev/null && continue
  is_installed "$package" || missing+=("$package")
done

# Later versions of the frontend also ask for nvrtc when linking.
frontend=nvidia-cudnn-frontend==1.18.0 folder=.deps/cudnn_frontend
fetch_frontend() {
  cd "$(dirname "$0")/.."
  [[ -e "$folder/include/cudnn_frontend.h" ]] && return
  local wheels
  wheels="$(mktemp -d)"
  if python3 -m pip -q --disable-pip-version-check download --no-deps --dest "$wheels" "$frontend" &&
    python3 -m zipfile -e "$wheels"/*.whl "$wheels/content"; then
    mkdir -p "$folder"
    mv "$wheels/content/include" "$folder/"
  else
    echo "install_deps: $frontend could not be fetched; attention runs on Nibble's own kernels" >&2
  fi
  rm -rf "$wheels"
}

if ((${#missing[@]} == 0)); then
  if ((gpu && !check_only)); then fetch_frontend; fi
  exit 0
fi
if ((check_only)); then
  echo "install_deps: missing: ${missing[*]}"
  exit 1
fi

as_root=()
if ((EUID != 0)); then
  if ! command -v sudo > /dev/null; then
    echo "install_deps: needs root or sudo to install: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "installing ${missing[*]}"
log="$(mktemp)"
trap 'rm -f "$log"' EXIT
apt() {
  # Under sudo the environment is reset, so the variable travels with the command.
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@" > "$log" 2>&1 || {
    cat "$log" >&2
    echo "install_deps: apt-get $1 failed" >&2
    exit 1
  }
}
apt update
apt install --yes --no-install-recommends "${missing[@]}"
if ((gpu)); then fetch_frontend; fi
