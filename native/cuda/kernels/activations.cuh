// Activations in the order of one matrix's units: B fragments of float16, and the sums that take the excess
// of the exponent trick and the zero points off.
#pragma once
#include "cuda/kernels/fragments.cuh"
#include "cuda/kernels/loads.cuh"

/// A power of two for every token, by which its largest activation comes just under float16's largest:
/// float16 inputs stay exact, bfloat16's down to 2^-39 of the largest, float32's are rounded to 11 bits
/// whatever their magnitude. float32 keeps a factor of two to 2^16, for rounding may carry.
extern "C" __global__ void __launch_bounds__(256)
    tokenScales(const __grid_constant__ slim::cuda::TokenScalesArguments a) {
  using namespace slim::cuda;
  __shared__ float warpMost[8];
  const uint64_t row = blockIdx.x * a.stride;
  float most = 0;
  bool finite = true;
  for (uint32_t i = threadIdx.x; i < a.columns; i += 256) {
    const float value = fabsf(loadElement(a.x, row + i, a.type));
    finite = finite && value <= 3.4028235e38f;
    most = fmaxf(most, value);
  }
  if (!finite) most = __int_as_float(0x7f800000);
#pragma unroll
  for (int distance = 16; distance > 0; distance /= 2)
    most = fmaxf(most, __shfl_xor_sync(0xffffffffu, most, distance));
  if (threadIdx.x % 32 == 0) warpMost[threadIdx.x / 32] = most;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int warp = 1; warp < 8; ++warp) most = fmaxf(most, warpMost[warp]);
  const int exponent = (__float_as_int(most) >> 23) - 127;  // of subnormals −127
  int shift = (a.type == uint32_t(ActivationType::F32) ? 14 : 15) - exponent;
  shift = most == 0 || exponent == 128 ? 0 : min(shift, 126);
  a.scales[blockIdx.x] = __int_as_float((127 + shift) << 23);
  a.scales[gridDim.x + blockIdx.x] = __int_as_float((127 - shift) << 23);
}

/// One unit (blockIdx.x) of one tile of tileTokens tokens (blockIdx.y); 128 threads.
extern "C" __global__ void __launch_bounds__(128)
    packActivations(const __grid_constant__ slim::cuda::PackActivationsArguments a) {
  using namespace slim::cuda;
  // 68 words a token: the 8 tokens × 4 lanes of a fragment lie in 32 banks.
  __shared__ __align__(16) __half values[8][kUnitColumns + 8];
  __shared__ float partial[3][4][8];  // sum, excess of rows lane/4, of rows lane/4 + 8; [32 columns][token]
  const uint32_t unit = blockIdx.x, tile = blockIdx.y, tiles = gridDim.y, thread = threadIdx.x;
  const uint32_t slotColumns = kUnitColumns / a.slotsOfUnit;
  const Slot slot = a.slots[unit * a.slotsOfUnit + thread / slotColumns];
  const uint32_t within = thread % slotColumns;
  for (uint32_t i = 0; i < a.tileTokens; ++i) {
    const uint32_t token = tile * 8 + i;
    float value = 0;
    if (token < a.tokens && within < slot.width)
      value = loadElement(a.x, token * a.stride + slot.column + within, a.type) * a.scales[token];
    values[i][thread] = __float2half_rn(value);
  }
  __syncthreads();

  if (thread < 16 * a.tileTokens) {
    const uint32_t lanes = 4 * a.tileTokens, pair = thread / lanes, token = thread % lanes / 4,
                   t = thread % 4;
    uint4 fragment;
    uint32_t* words = reinterpret_cast<uint32_t*>(&fragment);
    const int bits = a.slots[unit * a.slotsOfUnit].bits;
    float sum = 0, excess[2] = {0, 0};
#pragma unroll
    for (int half = 0; half < 4; ++half) {  // of two k-tiles
      const int tileOfUnit = 2 * pair + half / 2;
      words[half] = reinterpret_cast<const uint32_t*>(values[token])[tileOfUnit * 8 + half % 2 * 4 + t];
      const float2 two = __half22float2(reinterpret_cast<const __half2&>(words[half]));
      const float both = two.x + two.y;
      sum += both;
#pragma unroll
      for (int row = 0; row < 2; ++row)
        excess[row] += float(fieldExcess(bits, tileOfUnit, half % 2 * 2 + row)) * both;
    }
    const uint64_t block = (uint64_t(unit) * tiles + tile) * 4 + pair;
    reinterpret_cast<uint4*>(a.fragments)[block * lanes + thread % lanes] = fragment;
#pragma unroll
    for (int distance = 1; distance <= 2; distance *= 2) {
      const uint32_t four = 0xfu << (thread % 32 & ~3u);
      sum += __shfl_xor_sync(four, sum, distance);
      excess[0] += __shfl_xor_sync(four, excess[0], distance);
      excess[1] += __shfl_xor_sync(four, excess[1], distance);
    }
    if (t == 0) {
      partial[0][pair][token] = sum;
      partial[1][pair][token] = excess[0];
      partial[2][pair][token] = excess[1];
    }
  }
  __syncthreads();

  // Two tokens at a time, as the accumulators of a lane hold them.
  const uint32_t tokenPairs = (a.tileTokens + 1) / 2;
  if (thread < a.slotsOfUnit * tokenPairs) {
    const uint32_t slotOfUnit = thread / tokenPairs, pairs = 4 / a.slotsOfUnit;
    float sums[3][2] = {};
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t token = thread % tokenPairs * 2 + i;
      if (token >= a.tileTokens) continue;
      for (uint32_t pair = slotOfUnit * pairs; pair < (slotOfUnit + 1) * pairs; ++pair)
        for (int kind = 0; kind < 3; ++kind) sums[kind][i] += partial[kind][pair][token];
    }
    const uint64_t place = (uint64_t(unit) * tiles + tile) * tokenPairs + thread % tokenPairs;
    float* out = a.sums + place * floatsOfSums(a.slotsOfUnit);
    const float sign = a.slots[unit * a.slotsOfUnit].bits == 1 ? 1 : -1;
    reinterpret_cast<float4*>(out)[slotOfUnit] =
        make_float4(-sums[1][0], -sums[1][1], -sums[2][0], -sums[2][1]);
    reinterpret_cast<float2*>(out)[2 * a.slotsOfUnit + slotOfUnit] =
        make_float2(sign * sums[0][0], sign * sums[0][1]);
    if (a.slotsOfUnit == 1) reinterpret_cast<float2*>(out)[3] = make_float2(0, 0);
  }
}
