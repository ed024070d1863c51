// Packed weights times 9 and more tokens. A CTA of 8 warps takes 128 (or 256) rows and 16, 32 or 64 tokens,
// and a part of K; cp.async brings units (codes and B fragments) into a ring of `stages`, and a warp takes
// its 16 (32) rows apart once, in registers, for all of the CTA's tokens. B fragments lie in memory as mma
// reads them: one LDS.128 is two k-tiles, as ldmatrix.x4 would bring them, and meets no bank twice. Scales
// and zero points are applied to the float32 sums of a slot.
//
// With 32 rows a warp, a unit of 8 tokens costs 4 + 2 shared loads for 16 mma: half the shared-memory time of
// 16 rows, at which the tensor cores of sm_80 would wait for it.
#pragma once
#include "cuda/kernels/packed_gemv.cuh"

namespace slim::cuda {

constexpr int kGemmThreads = 256;

/// Bytes of a stage: where its parts begin. Codes, the last, are as many as the matrix's widest unit has.
template <int kTiles, int kSlots, int kRowTiles>
struct GemmStage {
  static constexpr uint32_t kSumChunks = kSlots * kTiles * 8;  // of 16 bytes
  static constexpr uint32_t kSums = kTiles * 2048, kMetadata = kSums + kSumChunks * 16;
  static constexpr uint32_t kCodes = kMetadata + 8 * kRowTiles * kSlots * 64;
};

template <int kBits>
__device__ __forceinline__ void takeApart(const char* codes, int lane, uint32_t (&weights)[8][4]) {
  uint32_t words[2 * kBits];
#pragma unroll
  for (int piece = 0; piece < kBits / 2; ++piece) {
    const uint4 v = reinterpret_cast<const uint4*>(codes)[piece * 32 + lane];
    words[4 * piece] = v.x, words[4 * piece + 1] = v.y, words[4 * piece + 2] = v.z,
              words[4 * piece + 3] = v.w;
  }
  if constexpr (kBits % 2 == 1) {
    const uint2 v = reinterpret_cast<const uint2*>(codes + kBits / 2 * 512)[lane];
    words[2 * kBits - 2] = v.x, words[2 * kBits - 1] = v.y;
  }
#pragma unroll
  for (int tile = 0; tile < kTilesOfUnit; ++tile)
#pragma unroll
    for (int reg = 0; reg < 4; ++reg) weights[tile][reg] = weightPair<kBits>(words, tile, reg);
}

__device__ __forceinline__ void takeApart(uint32_t bits, const char* codes, int lane,
                                          uint32_t (&weights)[8][4]) {
  if (bits == 2)
    takeApart<2>(codes, lane, weights);
  else if (bits == 3)
    takeApart<3>(codes, lane, weights);
  else if (bits == 4)
    takeApart<4>(codes, lane, weights);
  else if (bits == 1)
    takeApart<1>(codes, lane, weights);
  else
    takeApart<8>(codes, lane, weights);
}

/// Copies a unit's codes: every lane those that it reads itself.
__device__ __forceinline__ void bringCodes(uint32_t bits, char* to, const char* from, int lane) {
  if (bits & 1) copyAsync8(to + bits / 2 * 512 + lane * 8, from + bits / 2 * 512 + lane * 8);
  if (bits >= 2) copyAsync(to + lane * 16, from + lane * 16);
  if (bits >= 4) copyAsync(to + 512 + lane * 16, from + 512 + lane * 16);
  if (bits == 8) {
    copyAsync(to + 1024 + lane * 16, from + 1024 + lane * 16);
    copyAsync(to + 1536 + lane * 16, from + 1536 + lane * 16);
  }
}

/// kTiles tiles of 8 tokens, kRowTiles row tiles a warp.
template <int kTiles, int kSlots, int kRowTiles>
__device__ __forceinline__ void packedGemm(const PackedProductArguments& a) {
  extern __shared__ uint4 shared[];
  using Layout = GemmStage<kTiles, kSlots, kRowTiles>;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t rowTiles = (a.rows + kUnitRows - 1) / kUnitRows, tokenTiles = (a.tokens + 7) / 8;
  const uint32_t firstRowTile = (blockIdx.x * 8 + warp) * kRowTiles, firstTokenTile = blockIdx.y * kTiles;
  const uint32_t tilesHere = min(uint32_t(kTiles), tokenTiles - firstTokenTile);
  const uint32_t tilesThere = (1u << tilesHere) - 1;  // one bit each
  const uint32_t firstUnit = a.stripes[blockIdx.z], endUnit = a.stripes[blockIdx.z + 1];
  const uint32_t stageBytes = Layout::kCodes + 8 * kRowTiles * a.codeBytes, ringBytes = a.stages * stageBytes;
  char* const ring = reinterpret_cast<char*>(shared);
  const uint32_t warpsCodes = Layout::kCodes + warp * kRowTiles * a.codeBytes;

  // What is to be brought next, as running addresses of this thread. Row tiles beyond the last are the last
  // again.
  uint32_t next = firstUnit, width = 0, bringAt = 0;
  while (next >= a.runBegin[width + 1]) ++width;
  const uint4* fragments = static_cast<const uint4*>(a.fragments) +
                           (uint64_t(firstUnit) * tokenTiles + firstTokenTile) * 128 + thread;
  const uint32_t slotOfSums = thread / (kTiles * 8), withinSums = thread % (kTiles * 8);
  const bool bringsSums = thread < Layout::kSumChunks && withinSums < tilesHere * 8;
  const uint4* sums = reinterpret_cast<const uint4*>(a.sums) +
                      (uint64_t(firstUnit * kSlots + slotOfSums) * tokenTiles + firstTokenTile) * 8 +
                      withinSums;
  const char *codes[kRowTiles], *metadata[kRowTiles];
#pragma unroll
  for (int r = 0; r < kRowTiles; ++r) {
    const uint64_t tile = min(firstRowTile + r, rowTiles - 1);
    const uint64_t place = a.runOffset[width] + uint64_t(firstUnit - a.runBegin[width]) * widthBits(width);
    codes[r] = static_cast<const char*>(a.codes) + (tile * a.tileStride + place) * kUnitBytesABit;
    metadata[r] =
        static_cast<const char*>(a.metadata) + (tile * a.units + firstUnit) * (kSlots * 64) + lane * 16;
  }

  const auto bring = [&] {
    if (next < endUnit) {
      char* stage = ring + bringAt;
#pragma unroll
      for (int i = 0; i < kTiles / 2; ++i)
        if (thread + i * kGemmThreads < tilesHere * 128)
          copyAsync(stage + (thread + i * kGemmThreads) * 16, fragments + i * kGemmThreads);
      if (bringsSums) copyAsync(stage + Layout::kSums + thread * 16, sums);
      while (next >= a.runBegin[width + 1]) ++width;  // codes of the widths lie one after the other
      const uint32_t bits = widthBits(width);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        if (lane < kSlots * 4)
          copyAsync(stage + Layout::kMetadata + (warp * kRowTiles + r) * (kSlots * 64) + lane * 16,
                    metadata[r]);
        bringCodes(bits, stage + warpsCodes + r * a.codeBytes, codes[r], lane);
        codes[r] += bits * kUnitBytesABit;
        metadata[r] += kSlots * 64;
      }
      fragments += tokenTiles * 128;
      sums += kSlots * tokenTiles * 8;
      bringAt = bringAt + stageBytes == ringBytes ? 0 : bringAt + stageBytes;
      ++next;
    }
    commitCopies();
  };

  for (uint32_t i = 0; i + 1 < a.stages; ++i) bring();
  float acc[kRowTiles][kTiles][4] = {};
  uint32_t takeAt = 0, takeWidth = 0;
#pragma unroll 1
  for (uint32_t unit = firstUnit; unit < endUnit; ++unit) {
    if (a.stages == 4)
      waitCopies<2>();
    else if (a.stages == 3)
      waitCopies<1>();
    else
      waitCopies<0>();
    __syncthreads();  // what this stage brought is there, and nobody reads the one that is refilled next
    bring();

    const char* stage = ring + takeAt;
    takeAt = takeAt + stageBytes == ringBytes ? 0 : takeAt + stageBytes;
    while (unit >= a.runBegin[takeWidth + 1]) ++takeWidth;
    const uint32_t bits = widthBits(takeWidth);
    uint32_t weights[kRowTiles][kTilesOfUnit][4];
    RowPair rows[kRowTiles][kSlots];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      takeApart(bits, stage + warpsCodes + r * a.codeBytes, lane, weights[r]);
      // w = scale · code + offset: of 1-bit groups the mean, else −scale · zero, exact in float32.
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const char* place = stage + Layout::kMetadata + ((warp * kRowTiles + r) * kSlots + slot) * 64;
        rows[r][slot] = rowPair(reinterpret_cast<const uint2*>(place)[lane / 4]);
#pragma unroll
        for (int half = 0; half < 2; ++half)
          if (bits > 1) rows[r][slot].offset[half] *= -rows[r][slot].scale[half];
      }
    }

    const uint4* inputs = reinterpret_cast<const uint4*>(stage) + lane;
    const SlotSums* slotSums = reinterpret_cast<const SlotSums*>(stage + Layout::kSums) + lane % 4;
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
      if (!(tilesThere >> tile & 1)) continue;
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        float c[kRowTiles][4];
        float2 sum;
        loadSums(slotSums + (slot * kTiles + tile) * 4, c[0], sum);
#pragma unroll
        for (int i = 0; i < 4 * (kRowTiles - 1); ++i) c[1 + i / 4][i % 4] = c[0][i % 4];
#pragma unroll
        for (int pair = slot * 4 / kSlots; pair < (slot + 1) * 4 / kSlots; ++pair) {
          const uint4 b = inputs[(tile * 4 + pair) * 32];
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) {
            multiplyTile(c[r], weights[r][2 * pair], b.x, b.y);
            multiplyTile(c[r], weights[r][2 * pair + 1], b.z, b.w);
          }
        }
#pragma unroll
        for (int r = 0; r < kRowTiles; ++r) {
          addToRows(acc[r][tile], rows[r][slot].offset, 1, sum);
#pragma unroll
          for (int j = 0; j < 4; ++j)
            acc[r][tile][j] = fmaf(rows[r][slot].scale[j / 2], c[r][j], acc[r][tile][j]);
        }
      }
    }
  }
  waitCopies<0>();

  const uint64_t paddedRows = uint64_t(gridDim.x) * 8 * kRowTiles * kUnitRows;
  const auto each = [&](const auto& output) {
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const uint32_t row = (firstRowTile + r) * kUnitRows + lane / 4 + i / 2 * 8;
          const uint32_t token = (firstTokenTile + tile) * 8 + lane % 4 * 2 + i % 2;
          if (row < a.rows && token < a.tokens) output(row, token, acc[r][tile][i]);
        }
  };
  if (gridDim.z == 1) {
    each([&](uint32_t row, uint32_t token, float sum) { finishOutput(a, sum, row, token); });
    return;
  }
  each([&](uint32_t row, uint32_t token, float sum) {
    a.workspace[(uint64_t(blockIdx.z) * a.tokens + token) * paddedRows + row] = sum;
  });
  if (!isLastArrival(a.arrivals + blockIdx.y * gridDim.x + blockIdx.x, gridDim.z)) return;
  each([&](uint32_t row, uint32_t token, float) {
    float sum = 0;
    for (uint32_t s = 0; s < gridDim.z; ++s)
      sum += __ldcg(a.workspace + (uint64_t(s) * a.tokens + token) * paddedRows + row);
    finishOutput(a, sum, row, token);
  });
}

}  // namespace slim::cuda

// packedGemm{tokens of a CTA}x{slots of a unit}
extern "C" {
__global__ void __launch_bounds__(256, 2) packedGemm16x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<2, 1, 1>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm32x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<4, 1, 1>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm64x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<8, 1, 2>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm16x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<2, 2, 1>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm32x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<4, 2, 1>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm64x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<8, 2, 2>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm16x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<2, 4, 1>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm32x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<4, 4, 1>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm64x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<8, 4, 2>(a);
}
}
