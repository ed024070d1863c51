#!/usr/bin/env bash
# Compiles every CUDA source for sm_80 and sm_90a as a check. Nothing here runs on a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
shopt -s nullglob globstar
sources=(native/cuda/**/*.cu)
if [ ${#sources[@]} -eq 0 ]; then
  echo 'no CUDA sources yet'
elif ! command -v nvcc >/dev/null; then
  echo 'nvcc is not installed: the CUDA sources cannot be checked' >&2
  exit 1
else
  for source in "${sources[@]}"; do
    for arch in sm_80 sm_90a; do
      nvcc -arch="$arch" -std=c++17 -Werror all-warnings --cubin -o /dev/null "$source"
      echo "$source compiles for $arch"
    done
  done
fi
