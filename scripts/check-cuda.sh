#!/usr/bin/env bash
# Compiles all kernels for every target, with warnings as errors, and runs them on the emulated driver.
set -euo pipefail
cd "$(dirname "$0")/.."
node scripts/build-cuda.mjs
npx vitest run test/cuda
