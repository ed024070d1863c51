// Attention of prompts on tensor cores: 64 rows of queries (tokens × the heads that share keys) against the
// pages of the cache, softmax summed up page by page (FlashAttention-2, arXiv 2307.08691). The next page's
// keys come in while the values of this one are summed up.
#pragma once
#include "cuda/kernels/attention.cuh"
#include "cuda/kernels/fragments.cuh"

namespace slim::cuda {

/// Four 8 × 8 matrices of float16; lane l gives the address of row l % 8 of matrix l / 8.
__device__ __forceinline__ void loadMatrices(uint32_t (&to)[4], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(sharedAddress(row))
               : "memory");
}
__device__ __forceinline__ void loadTransposed(uint32_t (&to)[4], const __half* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(sharedAddress(row))
               : "memory");
}

/// 16 bytes, or as many zeros.
__device__ __forceinline__ void copyOrClear(void* shared, const void* global, bool copy) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global),
               "r"(copy ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ float quadMaximum(float x) {
  x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 1));
  return fmaxf(x, __shfl_xor_sync(0xffffffffu, x, 2));
}
__device__ __forceinline__ float quadSum(float x) {
  x += __shfl_xor_sync(0xffffffffu, x, 1);
  return x + __shfl_xor_sync(0xffffffffu, x, 2);
}

/// Heads of up to kDims elements. A warp has 16 rows; blockIdx as attend's.
template <int kDims>
__device__ __forceinline__ void attendPrompt(const AttentionArguments& a) {
  extern __shared__ __align__(16) __half promptShared[];  // queries, keys, values [64][dims + 8]
  __shared__ float rowScales[kPromptRows];
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32, g = lane / 4, t = lane % 4;
  const AttentionTile tile = a.tiles[blockIdx.x];
  const uint32_t shared = a.heads / a.kvHeads, blocksOfKv = (shared + a.headsOfTile - 1) / a.headsOfTile;
  const uint32_t kvHead = blockIdx.y / blocksOfKv, headInKv = blockIdx.y % blocksOfKv * a.headsOfTile;
  const uint32_t heads = min(a.headsOfTile, shared - headInKv), firstHead = kvHead * shared + headInKv;
  const uint32_t rows = tile.tokens * heads;
  const uint32_t padded = paddedHeadDim(a.headDim), dims = (a.headDim + 15) / 16 * 16, stride = dims + 8;
  const HeadPlaces places{a.heads, a.kvHeads, a.headDim, a.perHead};
  __half* queries = promptShared;
  __half* keys = queries + kPromptRows * stride;
  __half* values = keys + kCachePage * stride;

  const uint32_t end = tile.firstPosition + tile.tokens;
  const uint32_t seen = a.window && tile.firstPosition >= a.window ? tile.firstPosition + 1 - a.window : 0;
  const uint32_t firstPage = seen / kCachePage, endPage = (end + kCachePage - 1) / kCachePage;
  const auto bring = [&](uint32_t page, uint32_t kind, __half* to) {
    if (page >= endPage) return;
    const uint64_t address = a.pages[uint64_t(tile.sequence) * a.pagesOfSequence + page];
    const __half* from = cacheRows(address, a.blockOffset, kind, a.kvHeads, kvHead, a.headDim);
    const uint32_t count = min(end - page * kCachePage, kCachePage), vectors = padded / 8;
    for (uint32_t i = thread; i < kCachePage * vectors; i += kAttentionThreads)
      copyOrClear(to + i / vectors * stride + i % vectors * 8, from + i * 8, i / vectors < count);
  };
  bring(firstPage, 0, keys);
  commitCopies();
  // Of heads that are no whole number of fragments.
  if (dims > padded)
    for (uint32_t i = thread; i < 2 * kCachePage; i += kAttentionThreads)
      *reinterpret_cast<uint4*>(keys + i * stride + padded) = make_uint4(0, 0, 0, 0);

  // Queries as float16 of each row's largest: no magnitude overflows.
  for (uint32_t i = 0; i < 16; ++i) {
    const uint32_t r = warp * 16 + i;
    const float* from = a.qkv;
    if (r < rows) from += (tile.firstRow + r / heads) * a.qkvStride + places.query(firstHead + r % heads);
    float most = 0;
    if (r < rows)
      for (uint32_t d = lane; d < a.headDim; d += 32) most = fmaxf(most, fabsf(from[d]));
    most = warpMaximum(most);
    const int exponent = min(max((__float_as_int(most) >> 23) - 127, -126), 126);
    const float down = __int_as_float((127 - exponent) << 23);
    for (uint32_t d = lane; d < dims; d += 32)
      queries[r * stride + d] = __float2half_rn(r < rows && d < a.headDim ? from[d] * down : 0.0f);
    if (lane == 0) rowScales[r] = __int_as_float((127 + exponent) << 23);
  }
  __syncwarp();

  // Of rows g and g + 8 of the warp.
  uint32_t own[2];
  float scale[2], highest[2] = {minusInfinity(), minusInfinity()}, total[2] = {0, 0};
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t r = warp * 16 + 8 * h + g;
    own[h] = tile.firstPosition + r / heads;
    scale[h] = rowScales[r];
  }
  float sums[kDims / 8][4] = {};
  const __half* queryRow = queries + (warp * 16 + lane % 16) * stride + lane / 16 * 8;
  const __half* keyRow = keys + (lane / 16 * 8 + lane % 8) * stride + lane / 8 % 2 * 8;
  const __half* valueRow = values + lane % 16 * stride + lane / 16 * 8;

  for (uint32_t page = firstPage; page < endPage; ++page) {
    bring(page, 1, values);
    commitCopies();
    waitCopies<1>();
    __syncthreads();
    float scores[kCachePage / 8][4] = {};
    for (uint32_t d = 0; d < dims; d += 16) {
      uint32_t q[4];
      loadMatrices(q, queryRow + d);
#pragma unroll
      for (uint32_t p = 0; p < kCachePage; p += 16) {
        uint32_t k[4];
        loadMatrices(k, keyRow + p * stride + d);
        multiplyTile(scores[p / 8], q, k[0], k[1]);
        multiplyTile(scores[p / 8 + 1], q, k[2], k[3]);
      }
    }
    __syncthreads();  // all have read the keys
    bring(page + 1, 0, keys);
    commitCopies();

    uint32_t weights[kCachePage / 8][2];  // of rows g and g + 8: two float16 each
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float most = highest[h];
#pragma unroll
      for (uint32_t p = 0; p < kCachePage / 8; ++p)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          float& score = scores[p][2 * h + i];
          const uint32_t position = page * kCachePage + p * 8 + 2 * t + i;
          score *= scale[h];
          if (a.softcap > 0) score = a.softcap * tanhf(score / a.softcap);
          if (position > own[h] || (a.window && position + a.window <= own[h])) score = minusInfinity();
          most = fmaxf(most, score);
        }
      most = quadMaximum(most);
      const float factor = expBelow(highest[h], most);
      highest[h] = most;
      float sum = 0;
#pragma unroll
      for (uint32_t p = 0; p < kCachePage / 8; ++p) {
        const __half2 two =
            __floats2half2_rn(expBelow(scores[p][2 * h], most), expBelow(scores[p][2 * h + 1], most));
        weights[p][h] = reinterpret_cast<const uint32_t&>(two);
        // The weights as they are rounded: they add up to 1.
        const float2 rounded = __half22float2(two);
        sum += rounded.x + rounded.y;
      }
      total[h] = total[h] * factor + quadSum(sum);
#pragma unroll
      for (int n = 0; n < kDims / 8; ++n) {
        sums[n][2 * h] *= factor;
        sums[n][2 * h + 1] *= factor;
      }
    }
    waitCopies<1>();
    __syncthreads();
#pragma unroll
    for (uint32_t p = 0; p < kCachePage; p += 16) {
      const uint32_t left[4] = {weights[p / 8][0], weights[p / 8][1], weights[p / 8 + 1][0],
                                weights[p / 8 + 1][1]};
#pragma unroll
      for (uint32_t d = 0; d < kDims; d += 16) {
        if (d >= dims) continue;
        uint32_t v[4];
        loadTransposed(v, valueRow + p * stride + d);
        multiplyTile(sums[d / 8], left, v[0], v[1]);
        multiplyTile(sums[d / 8 + 1], left, v[2], v[3]);
      }
    }
    __syncthreads();  // all have read the values
  }

#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const uint32_t r = warp * 16 + 8 * h + g;
    if (r >= rows) continue;
    float* out = a.out + (tile.firstRow + r / heads) * a.outStride + (firstHead + r % heads) * a.headDim;
#pragma unroll
    for (uint32_t n = 0; n < kDims / 8; ++n) {
      const uint32_t d = n * 8 + 2 * t;
      const float low = sums[n][2 * h] / total[h], high = sums[n][2 * h + 1] / total[h];
      if (a.headDim % 2 == 0) {
        if (d < a.headDim) *reinterpret_cast<float2*>(out + d) = make_float2(low, high);
      } else {
        if (d < a.headDim) out[d] = low;
        if (d + 1 < a.headDim) out[d + 1] = high;
      }
    }
  }
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(slim::cuda::kAttentionThreads)
    attendPrompt64(const __grid_constant__ slim::cuda::AttentionArguments a) {
  slim::cuda::attendPrompt<64>(a);
}
extern "C" __global__ void __launch_bounds__(slim::cuda::kAttentionThreads)
    attendPrompt128(const __grid_constant__ slim::cuda::AttentionArguments a) {
  slim::cuda::attendPrompt<128>(a);
}
extern "C" __global__ void __launch_bounds__(slim::cuda::kAttentionThreads)
    attendPrompt256(const __grid_constant__ slim::cuda::AttentionArguments a) {
  slim::cuda::attendPrompt<256>(a);
}
