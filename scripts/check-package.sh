#!/usr/bin/env bash
# The npm package as users get it: made with its prebuilt addon and kernels, installed in an empty folder, used there
# without a driver or toolkit. Wants the kernels that scripts/build-cuda.mjs has built.
set -euo pipefail
cd "$(dirname "$0")/.."
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# In a copy: prebuildify empties build/.
mkdir -p "$scratch/slimllm/prebuilds" "$scratch/user"
git ls-files -z | xargs -0 cp --parents --target-directory "$scratch/slimllm"
cp build/Release/kernels.fatbin "$scratch/slimllm/prebuilds"
ln -s "$PWD/node_modules" "$scratch/slimllm/node_modules"
cd "$scratch/slimllm"
node scripts/build-native.mjs --prebuild
npm pack --silent --pack-destination "$scratch/user"

cd "$scratch/user"
tar -tzf slimllm-*.tgz | grep -E 'prebuilds/(kernels.fatbin|linux-.*\.node)$'
[ "$(tar -xzOf slimllm-*.tgz package/prebuilds/kernels.fatbin | wc -c)" -le 8000000 ]
npm init --yes >/dev/null
npm install --silent --no-audit --no-fund ./slimllm-*.tgz
model=node_modules/slimllm/models/demo
say() { npx slimllm generate "$model" --prompt 'The old man' --max-tokens 5 --json "$@"; }
unset SLIMLLM_CUDA_DRIVER SLIMLLM_CUDA_KERNELS
npx slimllm doctor
say
if ldconfig -p | grep -q libcuda.so.1; then
  echo "device 'cuda' was not tried: this machine has a driver"
else
  if said=$(say --device cuda 2>&1); then
    echo "device 'cuda' was taken without a driver: $said" >&2
    exit 1
  fi
  grep SLIM_DEVICE_UNAVAILABLE <<<"$said"
fi
