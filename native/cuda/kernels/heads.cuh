// Between the projections and the attention: norms of heads, rotary embedding, the KV cache's next entries.
#pragma once
#include <type_traits>

#include "cuda/kernels/loads.cuh"

namespace slim::cuda {

/// Where the heads of one token lie in its row of projected values (HeadOffsets of decoder/attention.h).
struct HeadPlaces {
  uint32_t heads, kvHeads, headDim, perHead;

  __device__ uint32_t query(uint32_t head) const { return (perHead ? 3 * head : head) * headDim; }
  __device__ uint32_t key(uint32_t head) const { return (perHead ? 3 * head + 1 : heads + head) * headDim; }
  __device__ uint32_t value(uint32_t head) const {
    return (perHead ? 3 * head + 2 : heads + kvHeads + head) * headDim;
  }
};

/// A block's keys (values: kind 1) of one head in a page: [kCachePage][padded headDim].
template <typename Element = __half>
__device__ __forceinline__ Element* cacheRows(uint64_t page, uint64_t blockOffset, uint32_t kind,
                                              uint32_t kvHeads, uint32_t head, uint32_t headDim) {
  return reinterpret_cast<Element*>(page + blockOffset) +
         uint64_t(kind * kvHeads + head) * kCachePage * paddedHeadDim(headDim);
}

__device__ __forceinline__ void storeElement(float value, __half& to) { to = __float2half_rn(value); }
__device__ __forceinline__ void storeElement(float value, float& to) { to = value; }

/// One warp a head of a row: first the queries, then the keys with their values.
template <typename Element>
__device__ __forceinline__ void prepareRows(const PrepareHeadsArguments& a) {
  __shared__ float heads[kPrepareWarps][kMostHeadDim];
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const uint32_t row = blockIdx.x, task = blockIdx.y * kPrepareWarps + warp;
  if (task >= a.heads + a.kvHeads) return;
  const bool isQuery = task < a.heads;
  const uint32_t head = isQuery ? task : task - a.heads;
  const HeadPlaces places{a.heads, a.kvHeads, a.headDim, a.perHead};
  float* qkv = a.qkv + row * a.qkvStride;
  float* x = qkv + (isQuery ? places.query(head) : places.key(head));
  float* staged = heads[warp];
  const float* weight = isQuery ? a.queryWeight : a.keyWeight;
  const float* bias = isQuery ? a.queryBias : a.keyBias;

  float mean = 0, inverse = 1;
  if (weight) {
    if (a.normType == uint32_t(NormType::Layer)) {
      float sum = 0;
      for (uint32_t d = lane; d < a.headDim; d += 32) sum += x[d];
      mean = warpSum(sum) / float(a.headDim);
    }
    float square = 0;
    for (uint32_t d = lane; d < a.headDim; d += 32) square += (x[d] - mean) * (x[d] - mean);
    inverse = 1.0f / sqrtf(warpSum(square) / float(a.headDim) + a.eps);
  }
  for (uint32_t d = lane; d < a.headDim; d += 32) {
    float value = x[d];
    if (weight) value = (value - mean) * inverse * weight[d] + (bias ? bias[d] : 0.0f);
    staged[d] = value;
  }
  __syncwarp();

  const uint32_t position = uint32_t(a.positions[row]), half = a.rotaryDim / 2;
  const float* cosines = a.rotary + uint64_t(position) * a.rotaryDim;
  const float* sines = cosines + half;
  const auto turned = [&](uint32_t d) {
    if (d < half) return staged[d] * cosines[d] - staged[d + half] * sines[d];
    if (d < a.rotaryDim) return staged[d] * cosines[d - half] + staged[d - half] * sines[d - half];
    return staged[d];
  };
  if (isQuery) {
    for (uint32_t d = lane; d < a.headDim; d += 32) x[d] = turned(d) * a.scale;
    return;
  }
  const float* value = qkv + places.value(head);
  const uint64_t page = a.pages[uint64_t(a.sequences[row]) * a.pagesOfSequence + position / kCachePage];
  const uint32_t padded = paddedHeadDim(a.headDim), at = position % kCachePage * padded;
  Element* keys = cacheRows<Element>(page, a.blockOffset, 0, a.kvHeads, head, a.headDim) + at;
  Element* values = cacheRows<Element>(page, a.blockOffset, 1, a.kvHeads, head, a.headDim) + at;
  for (uint32_t d = lane; d < padded; d += 32) {
    storeElement(d < a.headDim ? turned(d) : 0.0f, keys[d]);
    storeElement(d < a.headDim ? value[d] : 0.0f, values[d]);
  }
  // A backward pass reads them in rows of all tokens.
  if constexpr (std::is_same_v<Element, float>)
    for (uint32_t d = lane; d < a.headDim; d += 32) x[d] = keys[d];
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kPrepareWarps)
    prepareHeads(const __grid_constant__ slim::cuda::PrepareHeadsArguments a) {
  slim::cuda::prepareRows<__half>(a);
}
extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kPrepareWarps)
    prepareHeadsF32(const __grid_constant__ slim::cuda::PrepareHeadsArguments a) {
  slim::cuda::prepareRows<float>(a);
}
