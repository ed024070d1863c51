// All kernels: one translation unit, compiled to one kernels.fatbin by scripts/build-cuda.mjs.
#include "cuda/kernels/activations.cuh"
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/dense.cuh"
#include "cuda/kernels/embedding.cuh"
#include "cuda/kernels/nonlinearity.cuh"
#include "cuda/kernels/norm.cuh"
#include "cuda/kernels/packed_gemm.cuh"
#include "cuda/kernels/prompt_attention.cuh"
