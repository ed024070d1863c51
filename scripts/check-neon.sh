#!/usr/bin/env bash
# Cross-compiles the native sources (all but the N-API ones) for arm64, and runs the NEON kernels under an emulator
# of processors with and without what they look for.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v aarch64-linux-gnu-g++ >/dev/null || ! command -v qemu-aarch64 >/dev/null; then
  apt-get update -qq
  apt-get install -y -qq --no-install-recommends g++-aarch64-linux-gnu qemu-user >/dev/null
fi

objects=$(mktemp -d)
trap 'rm -rf "$objects"' EXIT
# As binding.gyp compiles them.
compile='aarch64-linux-gnu-g++ -std=c++20 -O3 -ffp-contract=off -Wall -Wextra -Werror -Inative'
sources=$(node -p 'JSON.parse(fs.readFileSync("native/sources.gypi")).variables.slim_sources
  .filter((name) => !name.startsWith("native/addon/")).join("\n")')
echo "$sources test/neon/packed_gemm_test.cc" | tr ' ' '\n' |
  xargs -P "$(nproc)" -I{} sh -c "$compile -c \"\$1\" -o \"$objects/\$(echo \"\$1\" | tr / _).o\"" sh {}
aarch64-linux-gnu-g++ -static -pthread -o "$objects/test" "$objects"/*.o
echo "$(echo "$sources" | wc -l) sources compile for arm64"

run() { qemu-aarch64 -cpu "$1" "$objects/test" "$2" | sed "s/^/$1: /"; }
run max neon+i8mm
run neoverse-n1 neon
run cortex-a72 portable
