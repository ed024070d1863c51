// Small operations on whole matrices.
#pragma once
#include "cuda/kernels/matrix_arguments.h"

extern "C" __global__ void __launch_bounds__(256)
    addScaled(const __grid_constant__ slim::cuda::AddScaledArguments a) {
  for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < a.count;
       i += uint64_t(gridDim.x) * blockDim.x)
    a.y[i] = __fadd_rn(a.y[i], __fmul_rn(a.alpha, a.x[i]));
}

extern "C" __global__ void __launch_bounds__(256)
    addToDiagonal(const __grid_constant__ slim::cuda::AddToDiagonalArguments a) {
  const uint32_t j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j < a.size) a.h[j * (uint64_t(a.size) + 1)] += a.value;
}

extern "C" __global__ void __launch_bounds__(256)
    clearColumns(const __grid_constant__ slim::cuda::ClearColumnsArguments a) {
  const uint32_t j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= a.columns || !a.flags[j]) return;
  for (uint64_t r = blockIdx.y; r < a.rows; r += gridDim.y) a.w[r * a.columns + j] = 0;
}
