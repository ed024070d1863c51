// What the salience reads of the weights.
#pragma once
#include "cuda/kernels/allocation_arguments.h"

/// Float64, in a fixed order: a warp takes every eighth row, then the warps' sums are added up in turn.
extern "C" __global__ void __launch_bounds__(slim::cuda::kEnergyColumns* slim::cuda::kEnergyWarps)
    columnEnergies(const __grid_constant__ slim::cuda::ColumnEnergiesArguments a) {
  using namespace slim::cuda;
  __shared__ double partial[kEnergyWarps][kEnergyColumns];
  const uint32_t lane = threadIdx.x % kEnergyColumns, warp = threadIdx.x / kEnergyColumns;
  const uint32_t column = blockIdx.x * kEnergyColumns + lane;
  double sum = 0;
  if (column < a.columns) {
#pragma unroll 8
    for (uint32_t r = warp; r < a.rows; r += kEnergyWarps) {
      const double w = a.w[uint64_t(r) * a.columns + column];
      sum += w * w;
    }
  }
  partial[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || column >= a.columns) return;
  for (uint32_t other = 1; other < kEnergyWarps; ++other) sum += partial[other][lane];
  a.energies[column] = sum;
}
