#!/usr/bin/env bash
# Compiles all kernels for every target with warnings as errors. Nothing here runs on a GPU.
set -euo pipefail
cd "$(dirname "$0")/.."
node scripts/build-cuda.mjs --kernels
