// Cross entropy backwards: logits become ∂L/∂logits (decoder/head_gradient.h).
#pragma once
#include "cuda/kernels/head_gradient_arguments.h"
#include "cuda/kernels/loads.cuh"

namespace slim::cuda {

/// One token's logits y, or their tanh(y / cap), as likelihoods up to a factor.
struct TokenLikelihoods {
  const float* y;
  float cap, greatest;

  __device__ float logit(uint32_t i) const { return cap > 0 ? cap * y[i] : y[i]; }
  __device__ float operator()(uint32_t i) const { return expf(logit(i) - greatest); }
};

/// The first index of [begin, end) up to which the likelihoods add up to more than `target`, by a converged
/// warp; the last one that is likely at all where rounding leaves a rest.
__device__ __forceinline__ uint32_t findLabel(const TokenLikelihoods& likelihood, uint32_t begin,
                                              uint32_t end, double target) {
  const int lane = threadIdx.x % 32;
  for (uint32_t i = begin; i < end; i += 32) {
    double sum = i + lane < end ? likelihood(i + lane) : 0.0f;
#pragma unroll
    for (int distance = 1; distance < 32; distance *= 2) {
      const double before = __shfl_up_sync(0xffffffffu, sum, distance);
      if (lane >= distance) sum += before;
    }
    if (const uint32_t beyond = __ballot_sync(0xffffffffu, target < sum && i + lane < end))
      return i + __ffs(int(beyond)) - 1;
    target -= __shfl_sync(0xffffffffu, sum, 31);
  }
  uint32_t last = end - 1;
  while (last > 0 && !(likelihood(last) > 0)) --last;
  return last;
}

}  // namespace slim::cuda

/// One CTA a token. The likelihoods are computed anew wherever they are read: there is no room to keep them.
extern "C" __global__ void __launch_bounds__(slim::cuda::kLikelihoodThreads)
    differentiateLikelihoods(const __grid_constant__ slim::cuda::LikelihoodArguments a) {
  using namespace slim::cuda;
  constexpr int kWarps = kLikelihoodThreads / 32;
  __shared__ float maxima[kWarps];
  __shared__ double chunks[kLikelihoodChunks];
  __shared__ int32_t drawn;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* y = a.logits + uint64_t(blockIdx.x) * a.vocab;
  int32_t label = a.labels[blockIdx.x];
  if (label == kNoLabel) {
    for (uint32_t i = threadIdx.x; i < a.vocab; i += kLikelihoodThreads) y[i] = 0;
    if (threadIdx.x == 0) a.nll[blockIdx.x] = 0;
    return;
  }

  TokenLikelihoods likelihood{y, a.cap, minusInfinity()};
  for (uint32_t i = threadIdx.x; i < a.vocab; i += kLikelihoodThreads) {
    if (a.cap > 0) y[i] = tanhf(y[i] / a.cap);
    likelihood.greatest = fmaxf(likelihood.greatest, likelihood.logit(i));
  }
  likelihood.greatest = warpMaximum(likelihood.greatest);
  if (lane == 0) maxima[warp] = likelihood.greatest;
  __syncthreads();
  for (int other = 0; other < kWarps; ++other)
    likelihood.greatest = fmaxf(likelihood.greatest, maxima[other]);

  const uint32_t width = likelihoodChunk(a.vocab), count = (a.vocab + width - 1) / width;
  for (uint32_t chunk = warp; chunk < count; chunk += kWarps) {
    const uint32_t end = min(a.vocab, (chunk + 1) * width);
    double sum = 0;
    for (uint32_t i = chunk * width + lane; i < end; i += 32) sum += likelihood(i);
    sum = warpSum(sum);
    if (lane == 0) chunks[chunk] = sum;
  }
  __syncthreads();
  double total = 0;
  for (uint32_t chunk = 0; chunk < count; ++chunk) total += chunks[chunk];

  if (label == kDrawLabel) {
    if (warp == 0) {
      double target = a.draws[blockIdx.x] * total;
      uint32_t chunk = 0;
      for (; chunk + 1 < count && target >= chunks[chunk]; ++chunk) target -= chunks[chunk];
      label = int32_t(findLabel(likelihood, chunk * width, min(a.vocab, (chunk + 1) * width), target));
      if (lane == 0) a.labels[blockIdx.x] = drawn = label;
    }
    __syncthreads();
    label = drawn;
  }
  const float inverse = float(1.0 / total);
  for (uint32_t i = threadIdx.x; i < a.vocab; i += kLikelihoodThreads) {
    float gradient = likelihood(i) * inverse;
    if (i == uint32_t(label)) {
      a.nll[blockIdx.x] = log(total) - double(likelihood.logit(i) - likelihood.greatest);
      gradient -= 1.0f;
    }
    if (a.cap > 0) gradient *= 1.0f - y[i] * y[i];
    y[i] = gradient;
  }
}
