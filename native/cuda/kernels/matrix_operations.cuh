// Small operations on whole matrices.
#pragma once
#include "cuda/kernels/bit_allocation.cuh"
#include "cuda/kernels/matrix_arguments.h"

/// One CTA a row.
extern "C" __global__ void __launch_bounds__(slim::cuda::kSoftmaxThreads)
    rowProducts(const __grid_constant__ slim::cuda::RowProductsArguments a) {
  using namespace slim::cuda;
  __shared__ double partial[kSoftmaxThreads / 32];
  const float *x = a.a + blockIdx.x * a.columns, *y = a.b + blockIdx.x * a.columns;
  double sum = 0;
  for (uint64_t j = threadIdx.x; j < a.columns; j += kSoftmaxThreads) sum += double(x[j]) * y[j];
  sum = softmaxSum(sum, partial);
  if (threadIdx.x == 0) a.out[blockIdx.x] = sum;
}

extern "C" __global__ void __launch_bounds__(256)
    addScaled(const __grid_constant__ slim::cuda::AddScaledArguments a) {
  for (uint64_t i = uint64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < a.count;
       i += uint64_t(gridDim.x) * blockDim.x)
    a.y[i] = __fadd_rn(__fmul_rn(a.alpha, a.x[i]), __fmul_rn(a.beta, a.y[i]));
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
