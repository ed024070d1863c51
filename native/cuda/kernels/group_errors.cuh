// Errors by width (quant/group_errors.h): of groups as they stand, and what GPTQ leaves of rows.
#pragma once
#include "cuda/kernels/group_fit.cuh"
#include "cuda/kernels/quantization_arguments.h"

/// A warp fits one row of a group (blockIdx.x) at one width after the other; a CTA adds up its rows
/// (blockIdx.y).
extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kQuantizedRows, 3)
    groupShares(const __grid_constant__ slim::cuda::GroupSharesArguments a) {
  using namespace slim::cuda;
  constexpr int kWarps = kQuantizedRows;
  __shared__ __align__(16) float weights[kWarps][kMostGroupColumns], costs[kMostGroupColumns];
  __shared__ double rows[kMostBits][kWarps + 1];  // widths in different banks
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t begin = blockIdx.x * a.groupSize, row = blockIdx.y * kWarps + warp;
  const int width = int(min(a.groupSize, a.cols - begin)), mostBits = int(a.mostBits);
  const auto quantizer = slim::Quantizer(a.quantizer);
  const bool inside = row < a.rows;
  if (quantizer == slim::Quantizer::Wide)
    for (int j = threadIdx.x; j < width; j += 32 * kWarps) costs[j] = a.h[begin + j];
  if (inside)
    for (int j = lane; j < width; j += 32) weights[warp][j] = a.w[uint64_t(row) * a.cols + begin + j];
  __syncthreads();
  for (int bits = 1; bits <= mostBits; ++bits) {
    double share = 0;
    if (inside) {
      const RowFit fit = roundToStored(fitRow(quantizer, bits, {weights[warp], costs, width}), bits);
      for (int j = lane; j < width; j += 32) {
        const double e = double(weights[warp][j]) - quantize(weights[warp][j], fit, bits).value;
        share += a.columnCosts[begin + j] * e * e;
      }
      share = warpSum(share) * a.rowCosts[row];
    }
    if (lane == 0) rows[bits - 1][warp] = share;
  }
  __syncthreads();
  if (int(threadIdx.x) >= mostBits) return;
  double sum = 0;
  for (int r = 0; r < kWarps; ++r) sum += rows[threadIdx.x][r];
  a.shares[(uint64_t(blockIdx.x) * gridDim.y + blockIdx.y) * mostBits + threadIdx.x] = sum;
}

/// A warp a row.
extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kQuantizedRows)
    addLosses(const __grid_constant__ slim::cuda::AddLossesArguments a) {
  using namespace slim::cuda;
  const uint32_t row = blockIdx.x * kQuantizedRows + threadIdx.x / 32;
  if (row >= a.rows) return;
  double sum = 0;
  for (uint32_t j = threadIdx.x % 32; j < a.width; j += 32) {
    const double e = a.errors[row * a.stride + j];
    sum += e * e;
  }
  sum = warpSum(sum);
  if (threadIdx.x % 32 == 0) a.losses[row] += sum;
}
