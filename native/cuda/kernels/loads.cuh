// Elements of every float type as float32.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "cuda/kernels/decoder_arguments.h"

namespace slim::cuda {

__device__ __forceinline__ float toFloat(float x) { return x; }
__device__ __forceinline__ float toFloat(__half x) { return __half2float(x); }
__device__ __forceinline__ float toFloat(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ float loadElement(const void* x, uint64_t index, uint32_t type) {
  if (type == uint32_t(ActivationType::F32)) return static_cast<const float*>(x)[index];
  if (type == uint32_t(ActivationType::F16)) return __half2float(static_cast<const __half*>(x)[index]);
  return __bfloat162float(static_cast<const __nv_bfloat16*>(x)[index]);
}

/// 8 elements from a 16-byte boundary on.
__device__ __forceinline__ void loadEight(const float* from, float (&to)[8]) {
  const float4 a = reinterpret_cast<const float4*>(from)[0], b = reinterpret_cast<const float4*>(from)[1];
  to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w;
  to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}
__device__ __forceinline__ void loadEight(const __half* from, float (&to)[8]) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = __half22float2(reinterpret_cast<const __half2&>(words[i]));
    to[2 * i] = two.x, to[2 * i + 1] = two.y;
  }
}
__device__ __forceinline__ void loadEight(const __nv_bfloat16* from, float (&to)[8]) {
  const uint4 v = *reinterpret_cast<const uint4*>(from);
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

/// 4 elements, on a boundary of as many bytes.
__device__ __forceinline__ float4 loadFour(const float* from) {
  return *reinterpret_cast<const float4*>(from);
}
__device__ __forceinline__ float4 loadFour(const __half* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  const float2 low = __half22float2(reinterpret_cast<const __half2&>(v.x));
  const float2 high = __half22float2(reinterpret_cast<const __half2&>(v.y));
  return make_float4(low.x, low.y, high.x, high.y);
}
__device__ __forceinline__ float4 loadFour(const __nv_bfloat16* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  return make_float4(__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
                     __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u));
}

__device__ __forceinline__ float minusInfinity() { return __int_as_float(0xff800000); }

template <typename Number>
__device__ __forceinline__ Number warpSum(Number x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
  return x;
}
template <typename Number>
__device__ __forceinline__ Number warpMaximum(Number x) {
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2) x = max(x, __shfl_xor_sync(0xffffffffu, x, distance));
  return x;
}

}  // namespace slim::cuda
