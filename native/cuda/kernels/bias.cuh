// The bias of a linear layer whose product is added to it.
#pragma once
#include "cuda/kernels/decoder_arguments.h"

/// 256 columns (blockIdx.y) of a row (blockIdx.x).
extern "C" __global__ void __launch_bounds__(256)
    biasRows(const __grid_constant__ slim::cuda::BiasArguments a) {
  const uint32_t i = blockIdx.y * 256 + threadIdx.x;
  if (i >= a.width) return;
  float* y = a.y + blockIdx.x * a.stride + i;
  *y = a.accumulate ? *y + a.bias[i] : a.bias[i];
}
