// RMS norm and layer norm of rows of states; one CTA a row.
#pragma once
#include "cuda/kernels/loads.cuh"

namespace slim::cuda {

constexpr int kNormThreads = 256;

/// The results of the warps of a CTA of kNormThreads put together, the same in every thread; `partial` is
/// free after the next barrier.
template <typename Combine>
__device__ __forceinline__ float combineWarps(float ofWarp, float* partial, Combine combine) {
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = ofWarp;
  __syncthreads();
  float all = partial[0];
  for (int warp = 1; warp < kNormThreads / 32; ++warp) all = combine(all, partial[warp]);
  return all;
}
__device__ __forceinline__ float blockSum(float x, float* partial) {
  return combineWarps(warpSum(x), partial, [](float a, float b) { return a + b; });
}
__device__ __forceinline__ float blockMaximum(float x, float* partial) {
  return combineWarps(warpMaximum(x), partial, [](float a, float b) { return fmaxf(a, b); });
}

}  // namespace slim::cuda

/// RMS: x / √(mean x² + ε) ∘ w. Layer: (x − mean x) / √(var x + ε) ∘ w + b.
extern "C" __global__ void __launch_bounds__(slim::cuda::kNormThreads)
    normRows(const __grid_constant__ slim::cuda::NormArguments a) {
  using namespace slim::cuda;
  __shared__ float partial[2][kNormThreads / 32];
  const uint64_t row = a.rowIndices ? uint64_t(a.rowIndices[blockIdx.x]) : blockIdx.x;
  const float* x = a.x + row * a.xStride;
  float* out = a.out + blockIdx.x * a.outStride;
  if (a.type == uint32_t(NormType::Copy)) {
    for (uint32_t i = threadIdx.x; i < a.size; i += kNormThreads) out[i] = x[i];
    return;
  }
  float mean = 0;
  if (a.type == uint32_t(NormType::Layer)) {
    float sum = 0;
    for (uint32_t i = threadIdx.x; i < a.size; i += kNormThreads) sum += x[i];
    mean = blockSum(sum, partial[0]) / float(a.size);
  }
  float square = 0;
  for (uint32_t i = threadIdx.x; i < a.size; i += kNormThreads) {
    const float d = x[i] - mean;
    square += d * d;
  }
  const float inverse = 1.0f / sqrtf(blockSum(square, partial[1]) / float(a.size) + a.eps);
  for (uint32_t i = threadIdx.x; i < a.size; i += kNormThreads) {
    float value = (x[i] - mean) * inverse * a.weight[i];
    if (a.bias) value += a.bias[i];
    out[i] = a.accumulate ? out[i] + value : value;
  }
}
