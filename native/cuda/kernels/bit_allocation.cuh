// SBA: candidates' weights, rounded to nearest, and the divergence of their outputs.
#pragma once
#include "cuda/kernels/allocation_arguments.h"
#include "cuda/kernels/group_fit.cuh"

namespace slim::cuda {

constexpr int kSoftmaxThreads = 256;
constexpr float kLogLeast = -13.815510557964274f;  // log 1e-6

/// Sums over a CTA of kSoftmaxThreads, the same in every thread; `partial` is free after the next barrier.
__device__ __forceinline__ double softmaxSum(double x, double* partial) {
  x = warpSum(x);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = x;
  __syncthreads();
  double sum = 0;
  for (int warp = 0; warp < kSoftmaxThreads / 32; ++warp) sum += partial[warp];
  return sum;
}

/// log Σ exp(y), so that y − it is the log-probability.
__device__ __forceinline__ float logSum(const float* y, uint64_t size, float* maxima, double* partial) {
  float greatest = minusInfinity();
  for (uint64_t i = threadIdx.x; i < size; i += kSoftmaxThreads) greatest = fmaxf(greatest, y[i]);
  greatest = warpMaximum(greatest);
  if (threadIdx.x % 32 == 0) maxima[threadIdx.x / 32] = greatest;
  __syncthreads();
  for (int warp = 0; warp < kSoftmaxThreads / 32; ++warp) greatest = fmaxf(greatest, maxima[warp]);
  double sum = 0;
  for (uint64_t i = threadIdx.x; i < size; i += kSoftmaxThreads) sum += expf(y[i] - greatest);
  return greatest + float(log(softmaxSum(sum, partial)));
}

}  // namespace slim::cuda

/// A warp a row of a group, min-max; scales stay float32. The candidates are the CPU's to the bit.
extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kRoundRows)
    roundGroups(const __grid_constant__ slim::cuda::RoundGroupsArguments a) {
  using namespace slim::cuda;
  const PlacedGroup group = a.groups[blockIdx.y];
  const uint32_t row = blockIdx.x * kRoundRows + threadIdx.x / 32;
  if (row >= a.rows) return;
  const float* w = a.w + uint64_t(row) * a.columns + group.column;
  float* out = a.out + row * a.outStride + group.place;
  const GroupRow weights{w, nullptr, int(group.width)};
  const RowFit fit = fitRow(slim::Quantizer::MinMax, group.bits, weights);
  RowFit other{};
  if (group.otherBits != 0) other = fitRow(slim::Quantizer::MinMax, group.otherBits, weights);
  for (uint32_t j = threadIdx.x % 32; j < group.width; j += 32) {
    const float value = quantize(w[j], fit, group.bits).value;
    out[j] = group.otherBits == 0 ? value : __fsub_rn(value, quantize(w[j], other, group.otherBits).value);
  }
}

extern "C" __global__ void __launch_bounds__(slim::cuda::kSoftmaxThreads)
    logProbabilities(const __grid_constant__ slim::cuda::SoftmaxArguments a) {
  using namespace slim::cuda;
  __shared__ float maxima[kSoftmaxThreads / 32];
  __shared__ double partial[kSoftmaxThreads / 32];
  float* y = a.y + blockIdx.x * a.size;
  const float normalizer = logSum(y, a.size, maxima, partial);
  for (uint64_t i = threadIdx.x; i < a.size; i += kSoftmaxThreads) y[i] = fmaxf(y[i] - normalizer, kLogLeast);
}

extern "C" __global__ void __launch_bounds__(slim::cuda::kSoftmaxThreads)
    divergences(const __grid_constant__ slim::cuda::SoftmaxArguments a) {
  using namespace slim::cuda;
  __shared__ float maxima[kSoftmaxThreads / 32];
  __shared__ double partial[2][kSoftmaxThreads / 32];
  const float *y = a.y + blockIdx.x * a.size, *reference = a.reference + blockIdx.x * a.size;
  const float normalizer = logSum(y, a.size, maxima, partial[0]);
  double sum = 0;
  for (uint64_t i = threadIdx.x; i < a.size; i += kSoftmaxThreads) {
    const float log = fmaxf(y[i] - normalizer, kLogLeast);
    sum += expf(log) * (log - reference[i]);
  }
  sum = softmaxSum(sum, partial[1]);
  if (threadIdx.x == 0) a.out[blockIdx.x] = sum;
}

/// One CTA a token and group.
extern "C" __global__ void __launch_bounds__(128)
    gatherColumns(const __grid_constant__ slim::cuda::GatherColumnsArguments a) {
  using namespace slim::cuda;
  const PlacedGroup group = a.groups[blockIdx.y];
  const float* x = a.x + blockIdx.x * a.columns + group.column;
  float* out = a.out + blockIdx.x * a.outStride + group.place;
  for (uint32_t j = threadIdx.x; j < group.width; j += blockDim.x) out[j] = x[j];
}
