// Causal attention over the paged KV cache: grouped queries, sliding window, softcapped scores. Softmax is
// summed up page by page (Milakov & Gimelshein, arXiv 1805.02867): no scores in memory.
#pragma once
#include "cuda/kernels/heads.cuh"

namespace slim::cuda {

constexpr int kAttentionThreads = 128;
/// Of keys in float16, of the longest head.
constexpr uint32_t kKeyStride = kMostHeadDim + 8;

__device__ __forceinline__ float2 loadPair(const float* from) {
  return *reinterpret_cast<const float2*>(from);
}
__device__ __forceinline__ float2 loadPair(const __half* from) {
  return __half22float2(*reinterpret_cast<const __half2*>(from));
}

/// e^(x − highest), 0 of −∞ whatever the highest.
__device__ __forceinline__ float expBelow(float x, float highest) {
  return x == minusInfinity() ? 0.0f : expf(x - highest);
}

/// A tile's queries (blockIdx.x) of the heads of one block of heads (blockIdx.y) over one slice of the pages
/// (blockIdx.z), whose elements are of this type. `keys` is shared memory for those of a page.
template <typename Element>
__device__ __forceinline__ void attendRows(const AttentionArguments& a, Element* keys) {
  __shared__ __align__(16) float queries[kQueryRows][kMostHeadDim];
  __shared__ float scores[kQueryRows][kCachePage];
  __shared__ float factors[kQueryRows];  // what the sums so far are to be multiplied with
  __shared__ float finals[kQueryRows][2];
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const AttentionTile tile = a.tiles[blockIdx.x];
  const uint32_t shared = a.heads / a.kvHeads, blocksOfKv = (shared + a.headsOfTile - 1) / a.headsOfTile;
  const uint32_t kvHead = blockIdx.y / blocksOfKv;
  const uint32_t headInKv = blockIdx.y % blocksOfKv * a.headsOfTile;
  const uint32_t heads = min(a.headsOfTile, shared - headInKv), firstHead = kvHead * shared + headInKv;
  const uint32_t rows = tile.tokens * heads;
  constexpr uint32_t kVector = 16 / sizeof(Element);
  // 16 bytes more than the head: 16-byte loads of 8 rows at once lie in different banks.
  const uint32_t padded = paddedHeadDim(a.headDim), keyStride = padded + kVector;
  const HeadPlaces places{a.heads, a.kvHeads, a.headDim, a.perHead};

  const uint32_t end = tile.firstPosition + tile.tokens;
  const uint32_t seen = a.window && tile.firstPosition >= a.window ? tile.firstPosition + 1 - a.window : 0;
  const uint32_t firstPage = max(seen / kCachePage, blockIdx.z * a.slicePages);
  const uint32_t endPage =
      min((end + kCachePage - 1) / kCachePage, a.slices == 1 ? 0xffffffffu : (blockIdx.z + 1) * a.slicePages);
  const uint64_t place = (uint64_t(blockIdx.x) * gridDim.y + blockIdx.y) * a.slices + blockIdx.z;
  if (firstPage >= endPage) {
    if (thread < 2 * kQueryRows)
      a.moments[place * 2 * kQueryRows + thread] = thread % 2 ? 0.0f : minusInfinity();
    return;
  }

  for (uint32_t i = thread; i < kQueryRows * padded; i += kAttentionThreads) {
    const uint32_t r = i / padded, d = i % padded;
    float value = 0;
    if (r < rows && d < a.headDim)
      value = a.qkv[(tile.firstRow + r / heads) * a.qkvStride + places.query(firstHead + r % heads) + d];
    queries[r][d] = value;
  }

  // Of rows warp and warp + 4, in all lanes.
  float highest[2] = {minusInfinity(), minusInfinity()}, total[2] = {0, 0};
  // A thread's pair of columns, and every groups-th row from its group on.
  const uint32_t pairs = padded / 2, groups = min(kAttentionThreads / pairs, kQueryRows);
  const uint32_t pair = thread % pairs, group = thread / pairs;
  float sums[kQueryRows][2] = {};

  for (uint32_t page = firstPage; page < endPage; ++page) {
    const uint64_t address = a.pages[uint64_t(tile.sequence) * a.pagesOfSequence + page];
    const uint32_t start = page * kCachePage, count = min(end - start, kCachePage);
    const Element* keyRows = cacheRows<Element>(address, a.blockOffset, 0, a.kvHeads, kvHead, a.headDim);
    const Element* valueRows = cacheRows<Element>(address, a.blockOffset, 1, a.kvHeads, kvHead, a.headDim);
    __syncthreads();  // the last page's keys and scores have been read
    const uint32_t vectorsOfRow = padded / kVector;
    for (uint32_t i = thread; i < kCachePage * vectorsOfRow; i += kAttentionThreads) {
      const uint32_t p = i / vectorsOfRow, v = i % vectorsOfRow;
      uint4 vector = make_uint4(0, 0, 0, 0);
      if (p < count) vector = reinterpret_cast<const uint4*>(keyRows + p * padded)[v];
      *reinterpret_cast<uint4*>(keys + p * keyStride + kVector * v) = vector;
    }
    __syncthreads();

    // Thread t: the key t % 64, with rows t / 64 + 2 i.
    {
      const uint32_t p = thread % kCachePage, firstRow = thread / kCachePage;
      float dots[kQueryRows / 2] = {};
      for (uint32_t d = 0; d < padded; d += 8) {
        float k[8];
        loadEight(keys + p * keyStride + d, k);
#pragma unroll
        for (uint32_t i = 0; i < kQueryRows / 2; ++i) {
          float q[8];
          loadEight(&queries[firstRow + 2 * i][d], q);
#pragma unroll
          for (int j = 0; j < 8; ++j) dots[i] = fmaf(q[j], k[j], dots[i]);
        }
      }
#pragma unroll
      for (uint32_t i = 0; i < kQueryRows / 2; ++i) {
        const uint32_t r = firstRow + 2 * i, position = start + p;
        const uint32_t own = tile.firstPosition + r / heads;
        float score = a.softcap > 0 ? a.softcap * tanhf(dots[i] / a.softcap) : dots[i];
        const bool isSeen = r < rows && position <= own && (a.window == 0 || position + a.window > own);
        scores[r][p] = isSeen ? score : minusInfinity();
      }
    }
    __syncthreads();

#pragma unroll
    for (int i = 0; i < 2; ++i) {
      float* row = scores[warp + 4 * i];
      const float low = row[lane], high = row[lane + 32];
      const float most = fmaxf(highest[i], warpMaximum(fmaxf(low, high)));
      const float lowWeight = expBelow(low, most), highWeight = expBelow(high, most);
      const float factor = expBelow(highest[i], most);
      total[i] = total[i] * factor + warpSum(lowWeight + highWeight);
      highest[i] = most;
      row[lane] = lowWeight;
      row[lane + 32] = highWeight;
      if (lane == 0) factors[warp + 4 * i] = factor;
    }
    __syncthreads();

    if (group < groups) {
#pragma unroll
      for (uint32_t i = 0; i < kQueryRows; ++i) {
        const uint32_t r = group + i * groups;
        if (r >= kQueryRows) continue;
        sums[i][0] *= factors[r];
        sums[i][1] *= factors[r];
      }
      for (uint32_t p = 0; p < count; ++p) {
        const float2 value = loadPair(valueRows + p * padded + 2 * pair);
#pragma unroll
        for (uint32_t i = 0; i < kQueryRows; ++i) {
          const uint32_t r = group + i * groups;
          if (r >= kQueryRows) continue;
          sums[i][0] = fmaf(scores[r][p], value.x, sums[i][0]);
          sums[i][1] = fmaf(scores[r][p], value.y, sums[i][1]);
        }
      }
    }
  }

  if (lane == 0)
    for (int i = 0; i < 2; ++i) {
      finals[warp + 4 * i][0] = highest[i];
      finals[warp + 4 * i][1] = total[i];
    }
  __syncthreads();
  if (a.slices > 1 && thread < 2 * kQueryRows)
    a.moments[place * 2 * kQueryRows + thread] = finals[thread / 2][thread % 2];
  if (group >= groups) return;
#pragma unroll
  for (uint32_t i = 0; i < kQueryRows; ++i) {
    const uint32_t r = group + i * groups;
    if (r >= rows) continue;
#pragma unroll
    for (uint32_t j = 0; j < 2; ++j) {
      const uint32_t d = 2 * pair + j;
      if (d >= a.headDim) continue;
      if (a.slices > 1)
        a.sums[(place * kQueryRows + r) * a.headDim + d] = sums[i][j];
      else
        a.out[(tile.firstRow + r / heads) * a.outStride + (firstHead + r % heads) * a.headDim + d] =
            sums[i][j] / finals[r][1];
    }
  }
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(slim::cuda::kAttentionThreads)
    attend(const __grid_constant__ slim::cuda::AttentionArguments a) {
  __shared__ __align__(16) __half keys[slim::cuda::kCachePage * slim::cuda::kKeyStride];
  slim::cuda::attendRows(a, keys);
}
extern "C" __global__ void __launch_bounds__(slim::cuda::kAttentionThreads)
    attendF32(const __grid_constant__ slim::cuda::AttentionArguments a) {
  extern __shared__ __align__(16) float floatKeys[];
  slim::cuda::attendRows(a, floatKeys);
}

/// Puts the slices of a tile (blockIdx.x) and block of heads (blockIdx.y) together, in their order.
extern "C" __global__ void __launch_bounds__(slim::cuda::kAttentionThreads)
    mergeSlices(const __grid_constant__ slim::cuda::AttentionArguments a) {
  using namespace slim::cuda;
  const AttentionTile tile = a.tiles[blockIdx.x];
  const uint32_t shared = a.heads / a.kvHeads, blocksOfKv = (shared + a.headsOfTile - 1) / a.headsOfTile;
  const uint32_t headInKv = blockIdx.y % blocksOfKv * a.headsOfTile;
  const uint32_t heads = min(a.headsOfTile, shared - headInKv);
  const uint32_t firstHead = blockIdx.y / blocksOfKv * shared + headInKv;
  const uint64_t place = (uint64_t(blockIdx.x) * gridDim.y + blockIdx.y) * a.slices;
  for (uint32_t i = threadIdx.x; i < tile.tokens * heads * a.headDim; i += kAttentionThreads) {
    const uint32_t r = i / a.headDim, d = i % a.headDim;
    float highest = minusInfinity();
    for (uint32_t s = 0; s < a.slices; ++s)
      highest = fmaxf(highest, a.moments[((place + s) * kQueryRows + r) * 2]);
    float sum = 0, total = 0;
    for (uint32_t s = 0; s < a.slices; ++s) {
      const float* moments = a.moments + ((place + s) * kQueryRows + r) * 2;
      if (moments[1] == 0) continue;  // it has seen nothing, and written no sums
      const float weight = expBelow(moments[0], highest);
      total = fmaf(moments[1], weight, total);
      sum = fmaf(a.sums[((place + s) * kQueryRows + r) * a.headDim + d], weight, sum);
    }
    a.out[(tile.firstRow + r / heads) * a.outStride + (firstHead + r % heads) * a.headDim + d] = sum / total;
  }
}
