// Rows and triangles of float32 matrices.
#pragma once
#include "cuda/kernels/linear_algebra_arguments.h"

/// One CTA a row.
extern "C" __global__ void __launch_bounds__(256)
    copyRows(const __grid_constant__ slim::cuda::CopyRowsArguments args) {
  const uint64_t row = blockIdx.x;
  for (uint32_t i = threadIdx.x; i < args.width; i += 256) {
    const float x = args.a[row * args.aStride + i];
    args.out[row * args.outStride + i] = args.b ? x - args.b[row * args.bStride + i] : x;
  }
}

/// One CTA a tile of 32 × 32 elements on or below the diagonal.
extern "C" __global__ void __launch_bounds__(256)
    mirrorUpper(const __grid_constant__ slim::cuda::MirrorArguments args) {
  if (blockIdx.x > blockIdx.y) return;
  __shared__ float tile[32][33];
  const uint32_t x = threadIdx.x % 32, y = threadIdx.x / 32;
  for (uint32_t i = y; i < 32; i += 8) {
    const uint32_t row = blockIdx.x * 32 + i, column = blockIdx.y * 32 + x;
    tile[i][x] = row < column && column < args.n ? args.a[uint64_t(row) * args.n + column] : 0;
  }
  __syncthreads();
  for (uint32_t i = y; i < 32; i += 8) {
    const uint32_t row = blockIdx.y * 32 + i, column = blockIdx.x * 32 + x;
    if (column < row && row < args.n) args.a[uint64_t(row) * args.n + column] = tile[x][i];
  }
}

/// One CTA a row; sums in a fixed order.
extern "C" __global__ void __launch_bounds__(256)
    rowDots(const __grid_constant__ slim::cuda::RowDotsArguments args) {
  __shared__ double partial[8];
  const float* a = args.a + uint64_t(blockIdx.x) * args.width;
  const float* b = args.b + uint64_t(blockIdx.x) * args.width;
  double sum = 0;
  for (uint32_t i = threadIdx.x; i < args.width; i += 256) sum += double(a[i]) * b[i];
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int warp = 1; warp < 8; ++warp) sum += partial[warp];
  args.out[blockIdx.x] = sum;
}
