// All kernels: one translation unit, compiled to one kernels.fatbin by scripts/build-cuda.mjs.
#include "cuda/kernels/activations.cuh"
#include "cuda/kernels/packed_gemm.cuh"
