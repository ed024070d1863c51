// The nonlinearity of the MLP, and the cap of the logits.
#pragma once
#include "cuda/kernels/loads.cuh"

namespace slim::cuda {

/// Numbered as slim::Activation: SiLU, GELU, GELU by tanh, ReLU.
__device__ __forceinline__ float activated(float x, uint32_t activation) {
  switch (activation) {
    case 0:
      return x / (1.0f + expf(-x));
    case 1:
      return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    case 2:
      return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
    default:
      return x > 0 ? x : 0.0f;
  }
}

}  // namespace slim::cuda

/// 256 columns (blockIdx.y) of a row (blockIdx.x).
extern "C" __global__ void __launch_bounds__(256)
    activateRows(const __grid_constant__ slim::cuda::ActivateArguments a) {
  using namespace slim::cuda;
  const uint32_t i = blockIdx.y * 256 + threadIdx.x;
  if (i >= a.width) return;
  const uint64_t at = blockIdx.x * a.stride + i;
  const float value = activated(a.x[at], a.activation);
  a.out[blockIdx.x * a.outStride + i] = a.up ? value * a.up[at] : value;
}

extern "C" __global__ void __launch_bounds__(256)
    capLogits(const __grid_constant__ slim::cuda::CapArguments a) {
  const uint64_t i = uint64_t(blockIdx.x) * 256 + threadIdx.x;
  if (i < a.count) a.x[i] = a.cap * tanhf(a.x[i] / a.cap);
}
