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
  // 68 words a token, of them 4 between the halves of a unit: the tokens × pairs of k-tiles × 4 lanes that a
  // warp reads at once lie in 32 banks, for tiles of 1, 4 and 8 tokens.
  constexpr int kHalf = kUnitColumns / 2, kGap = 8;
  __shared__ __align__(16) __half values[8][kUnitColumns + kGap];
  // Of every 32 columns of a slot, in the order of a.sums. Apart by 6 banks: 1 or 4 tokens' sums of several
  // 32 columns are written at once.
  __shared__ float partial[4][4 * floatsOfSums(4) + 6];
  const uint32_t unit = blockIdx.x, tile = blockIdx.y, tiles = gridDim.y, thread = threadIdx.x;
  const uint32_t slotColumns = kUnitColumns / a.slotsOfUnit;
  const Slot slot = a.slots[unit * a.slotsOfUnit + thread / slotColumns];
  const uint32_t within = thread % slotColumns, floats = floatsOfSums(a.slotsOfUnit);
  for (uint32_t i = 0; i < a.tileTokens; ++i) {
    const uint32_t token = tile * 8 + i;
    float value = 0;
    if (token < a.tokens && within < slot.width)
      value = loadElement(a.x, token * a.stride + slot.column + within, a.type) * a.scales[token];
    values[i][thread + thread / kHalf * kGap] = __float2half_rn(value);
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
      words[half] = reinterpret_cast<const uint32_t*>(
          values[token])[tileOfUnit * 8 + half % 2 * 4 + t + pair / 2 * (kGap / 2)];
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
      const uint32_t pairs = 4 / a.slotsOfUnit, slotOfUnit = pair / pairs;
      float* out = partial[pair % pairs] + token / 2 * floats + token % 2;
      out[4 * slotOfUnit] = -excess[0];
      out[4 * slotOfUnit + 2] = -excess[1];
      out[4 * a.slotsOfUnit + 2 * slotOfUnit] = bits == 1 ? sum : -sum;
    }
  }
  __syncthreads();

  const uint32_t tokenPairs = (a.tileTokens + 1) / 2;
  if (thread < tokenPairs * floats) {
    const uint32_t place = thread % floats, token = thread / floats * 2 + place % 2;
    float sum = 0;  // of what fills the pairs and the vectors up
    if (token < a.tileTokens && place < 6 * a.slotsOfUnit)
      for (uint32_t i = 0; i < 4 / a.slotsOfUnit; ++i) sum += partial[i][thread];
    a.sums[(uint64_t(unit) * tiles + tile) * tokenPairs * floats + thread] = sum;
  }
}
