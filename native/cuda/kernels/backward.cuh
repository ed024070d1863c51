// The chain rule through a decoder block's norms, nonlinearity, heads and attention; its products are
// multiply's.
#pragma once
#include "cuda/kernels/backward_arguments.h"
#include "cuda/kernels/heads.cuh"
#include "cuda/kernels/nonlinearity.cuh"
#include "cuda/kernels/norm.cuh"

namespace slim::cuda {

/// With x̂ = (x − mean) · inverse and g = w ∘ ∂L/∂out:
/// ∂L/∂x = inverse · (g − mean g [layer norm only] − x̂ · mean(g ∘ x̂)).
/// By kThreads threads, of which this is the `thread`-th and whose values `sum` adds up.
template <uint32_t kThreads, typename Sum>
__device__ __forceinline__ void normBackward(const float* x, const float* weight,
                                             const float* outputGradients, float* inputGradients,
                                             uint32_t size, bool layer, float eps, bool accumulate,
                                             uint32_t thread, Sum sum) {
  float mean = 0, shift = 0;
  if (layer) {
    float total = 0, gradients = 0;
    for (uint32_t i = thread; i < size; i += kThreads) {
      total += x[i];
      gradients += outputGradients[i] * weight[i];
    }
    mean = sum(total) / float(size);
    shift = sum(gradients) / float(size);
  }
  float square = 0, along = 0;
  for (uint32_t i = thread; i < size; i += kThreads) {
    const float d = x[i] - mean;
    square += d * d;
    along += outputGradients[i] * weight[i] * d;
  }
  const float inverse = 1.0f / sqrtf(sum(square) / float(size) + eps);
  const float slope = sum(along) / float(size) * inverse * inverse * inverse;
  shift *= inverse;
  for (uint32_t i = thread; i < size; i += kThreads) {
    const float gradient = outputGradients[i] * weight[i] * inverse - shift - (x[i] - mean) * slope;
    inputGradients[i] = accumulate ? inputGradients[i] + gradient : gradient;
  }
}

__device__ __forceinline__ float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

/// The derivative of activated(x).
__device__ __forceinline__ float activationSlope(float x, uint32_t activation) {
  switch (activation) {
    case 0:
      return sigmoid(x) * (1.0f + x * sigmoid(-x));
    case 1:  // Φ(x) + x φ(x)
      return 0.5f * erfcf(-0.70710678f * x) + x * 0.39894228f * expf(-0.5f * x * x);
    case 2: {  // x σ(u): (1 + tanh(u / 2)) / 2 = σ(u)
      const float u = 1.59576912f * (x + 0.044715f * x * x * x);
      return sigmoid(u) * (1.0f + x * sigmoid(-u) * 1.59576912f * (1.0f + 0.134145f * x * x));
    }
    default:
      return x > 0 ? 1.0f : 0.0f;
  }
}

}  // namespace slim::cuda

/// One CTA a row.
extern "C" __global__ void __launch_bounds__(slim::cuda::kNormThreads)
    normRowsBackward(const __grid_constant__ slim::cuda::NormBackwardArguments a) {
  using namespace slim::cuda;
  __shared__ float partial[4][kNormThreads / 32];
  const uint64_t at = uint64_t(blockIdx.x) * a.size;
  float(*next)[kNormThreads / 32] = partial;
  normBackward<kNormThreads>(a.x + at, a.weight, a.outputGradients + at, a.inputGradients + at, a.size,
                             a.type == uint32_t(NormType::Layer), a.eps, a.accumulate, threadIdx.x,
                             [&](float x) { return blockSum(x, *next++); });
}

/// 256 columns (blockIdx.y) of a row (blockIdx.x).
extern "C" __global__ void __launch_bounds__(256)
    activateRowsBackward(const __grid_constant__ slim::cuda::ActivateBackwardArguments a) {
  using namespace slim::cuda;
  const uint32_t i = blockIdx.y * 256 + threadIdx.x;
  if (i >= a.width) return;
  const uint64_t at = blockIdx.x * a.stride + i;
  const float x = a.x[at], slope = activationSlope(x, a.activation);
  if (!a.gated) {
    a.gradients[at] *= slope;
    return;
  }
  const uint64_t up = at + a.width;
  const float gradient = a.gradients[up];
  a.gradients[at] = gradient * a.x[up] * slope;
  a.gradients[up] = gradient * activated(x, a.activation);
}

/// One warp a head of a row: first the queries, then the keys.
extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kPrepareWarps)
    prepareHeadsBackward(const __grid_constant__ slim::cuda::PrepareHeadsBackwardArguments args) {
  using namespace slim::cuda;
  __shared__ float heads[kPrepareWarps][kMostHeadDim];
  const PrepareHeadsArguments& a = args.heads;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t row = blockIdx.x, task = blockIdx.y * kPrepareWarps + warp;
  if (task >= a.heads + a.kvHeads) return;
  const bool isQuery = task < a.heads;
  const HeadPlaces places{a.heads, a.kvHeads, a.headDim, a.perHead};
  const uint64_t at = row * a.qkvStride + (isQuery ? places.query(task) : places.key(task - a.heads));
  float *gradients = a.qkv + at, *staged = heads[warp];
  for (uint32_t d = lane; d < a.headDim; d += 32) staged[d] = gradients[d] * (isQuery ? a.scale : 1.0f);
  __syncwarp();

  const uint32_t half = a.rotaryDim / 2;
  const float* cosines = a.rotary + uint64_t(a.positions[row]) * a.rotaryDim;
  const float* sines = cosines + half;
  const auto turnedBack = [&](uint32_t d) {
    if (d < half) return staged[d] * cosines[d] + staged[d + half] * sines[d];
    if (d < a.rotaryDim) return staged[d] * cosines[d - half] - staged[d - half] * sines[d - half];
    return staged[d];
  };
  for (uint32_t d = lane; d < a.headDim; d += 32) gradients[d] = turnedBack(d);
  const float* weight = isQuery ? a.queryWeight : a.keyWeight;
  if (!weight) return;
  normBackward<32>(args.projected + at, weight, gradients, gradients, a.headDim,
                   a.normType == uint32_t(NormType::Layer), a.eps, false, lane,
                   [](float x) { return warpSum(x); });
}

/// p = softmax(scores) becomes of scores; ∂L/∂scores = p ∘ (∂L/∂p − Σ p ∂L/∂p), where Σ p ∂L/∂p = out ·
/// ∂L/∂out; with a cap, by the scores before it: times 1 − (score / cap)². One CTA a query (blockIdx.x) of a
/// head (blockIdx.y).
extern "C" __global__ void __launch_bounds__(slim::cuda::kNormThreads)
    softmaxBackward(const __grid_constant__ slim::cuda::SoftmaxBackwardArguments a) {
  using namespace slim::cuda;
  __shared__ float partial[3][kNormThreads / 32];
  const uint64_t row = (uint64_t(blockIdx.y) * gridDim.x + blockIdx.x) * a.stride;
  const uint64_t outRow = blockIdx.x * a.outStride + blockIdx.y * a.headStride;
  float *scores = a.scores + row, *gradients = a.gradients + row;
  const uint32_t position = a.firstPosition + blockIdx.x, end = position + 1 - a.firstKey;
  const uint32_t begin = a.window && position >= a.window ? position + 1 - a.window - a.firstKey : 0;
  const auto seen = [&](uint32_t key) { return key >= begin && key < end; };

  float along = 0;
  for (uint32_t d = threadIdx.x; d < a.headDim; d += kNormThreads)
    along += a.out[outRow + d] * a.outGradients[outRow + d];
  const float expected = blockSum(along, partial[0]);
  float largest = minusInfinity();
  for (uint32_t j = threadIdx.x; j < end; j += kNormThreads) {
    if (!seen(j)) continue;
    float score = scores[j];
    if (a.cap > 0) scores[j] = score = a.cap * tanhf(score / a.cap);
    largest = fmaxf(largest, score);
  }
  largest = blockMaximum(largest, partial[1]);
  float sum = 0;
  for (uint32_t j = threadIdx.x; j < end; j += kNormThreads)
    if (seen(j)) sum += expf(scores[j] - largest);
  const float inverse = 1.0f / blockSum(sum, partial[2]);
  for (uint32_t j = threadIdx.x; j < a.keys; j += kNormThreads) {
    float likelihood = 0, gradient = 0;
    if (seen(j)) {
      const float score = scores[j], share = score / a.cap;
      likelihood = expf(score - largest) * inverse;
      gradient = likelihood * (gradients[j] - expected);
      if (a.cap > 0) gradient *= 1.0f - share * share;
    }
    scores[j] = likelihood;
    gradients[j] = gradient;
  }
}
