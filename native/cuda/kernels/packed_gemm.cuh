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

/// The width of a unit, and its codes' place in a row tile, in units of 256 bytes.
struct UnitPlace {
  uint32_t bits;
  uint64_t offset;
};

__device__ __forceinline__ UnitPlace placeOf(const PackedProductArguments& a, uint32_t unit) {
  UnitPlace place{};
#pragma unroll
  for (int width = 0; width < kWidths; ++width)
    if (unit >= a.runBegin[width] && unit < a.runBegin[width + 1]) {
      place.bits = widthBits(width);
      place.offset = a.runOffset[width] + uint64_t(unit - a.runBegin[width]) * widthBits(width);
    }
  return place;
}

/// kTiles tiles of 8 tokens, kRowTiles row tiles a warp.
template <int kTiles, int kSlots, int kRowTiles>
__device__ __forceinline__ void packedGemm(const PackedProductArguments& a) {
  extern __shared__ uint4 shared[];
  constexpr uint32_t kFragments = kTiles * 128, kSums = kSlots * kTiles * 8;  // of 16 bytes, a stage
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t rowTiles = (a.rows + kUnitRows - 1) / kUnitRows, tokenTiles = (a.tokens + 7) / 8;
  const uint32_t firstRowTile = (blockIdx.x * 8 + warp) * kRowTiles, firstTokenTile = blockIdx.y * kTiles;
  const uint32_t tilesHere = min(uint32_t(kTiles), tokenTiles - firstTokenTile);
  const uint32_t tilesThere = (1u << tilesHere) - 1;  // one bit each
  const uint32_t firstUnit = a.stripes[blockIdx.z];
  const uint32_t endUnit = a.stripes[blockIdx.z + 1];

  // A stage: fragments, sums, then the codes of every warp, each its own lanes' alone.
  const uint32_t codesAt = (kFragments + kSums) * 16, stageBytes = codesAt + 8 * kRowTiles * a.codeBytes;
  char* const ring = reinterpret_cast<char*>(shared);

  const auto bring = [&](uint32_t unit) {
    if (unit < endUnit) {
      char* stage = ring + (unit - firstUnit) % a.stages * stageBytes;
      uint4* fragments = reinterpret_cast<uint4*>(stage);
      const uint4* from =
          static_cast<const uint4*>(a.fragments) + (uint64_t(unit) * tokenTiles + firstTokenTile) * 128;
      for (uint32_t i = thread; i < tilesHere * 128; i += kGemmThreads) copyAsync(fragments + i, from + i);
      if (thread < kSums) {
        const uint32_t slot = thread / (kTiles * 8), within = thread % (kTiles * 8);
        const uint64_t place = (uint64_t(unit * kSlots + slot) * tokenTiles + firstTokenTile) * 8 + within;
        if (within < tilesHere * 8)
          copyAsync(fragments + kFragments + thread, reinterpret_cast<const uint4*>(a.sums) + place);
      }
      const UnitPlace place = placeOf(a, unit);
#pragma unroll
      for (int r = 0; r < kRowTiles; ++r) {
        if (firstRowTile + r >= rowTiles) continue;
        char* to = stage + codesAt + (warp * kRowTiles + r) * a.codeBytes;
        const char* codes = static_cast<const char*>(a.codes) +
                            ((firstRowTile + r) * a.tileStride + place.offset) * kUnitBytesABit;
        for (uint32_t i = 0; i < place.bits / 2; ++i)
          copyAsync(to + i * 512 + lane * 16, codes + i * 512 + lane * 16);
        if (place.bits % 2 == 1)
          copyAsync8(to + place.bits / 2 * 512 + lane * 8, codes + place.bits / 2 * 512 + lane * 8);
      }
    }
    commitCopies();
  };

  for (uint32_t i = 0; i + 1 < a.stages; ++i) bring(firstUnit + i);
  float acc[kRowTiles][kTiles][4] = {};
#pragma unroll 1
  for (uint32_t unit = firstUnit; unit < endUnit; ++unit) {
    RowPair rows[kRowTiles][kSlots];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const uint64_t place = (uint64_t(firstRowTile + r) * a.units + unit) * kSlots + slot;
        const uint2 packed = firstRowTile + r < rowTiles
                                 ? __ldg(static_cast<const uint2*>(a.metadata) + place * 8 + lane / 4)
                                 : make_uint2(0, 0);
        rows[r][slot] = rowPair(packed);
      }
    if (a.stages == 4)
      waitCopies<2>();
    else if (a.stages == 3)
      waitCopies<1>();
    else
      waitCopies<0>();
    __syncthreads();  // what this stage brought is there, and nobody reads the one that is refilled next
    bring(unit + a.stages - 1);

    const char* stage = ring + (unit - firstUnit) % a.stages * stageBytes;
    const uint32_t bits = placeOf(a, unit).bits;
    uint32_t weights[kRowTiles][kTilesOfUnit][4];
#pragma unroll
    for (int r = 0; r < kRowTiles; ++r) {
      if (firstRowTile + r >= rowTiles) continue;
      const char* codes = stage + codesAt + (warp * kRowTiles + r) * a.codeBytes;
      if (bits == 2)
        takeApart<2>(codes, lane, weights[r]);
      else if (bits == 3)
        takeApart<3>(codes, lane, weights[r]);
      else if (bits == 4)
        takeApart<4>(codes, lane, weights[r]);
      else if (bits == 1)
        takeApart<1>(codes, lane, weights[r]);
      else
        takeApart<8>(codes, lane, weights[r]);
        // w = scale · code + offset: of 1-bit groups the mean, else −scale · zero, exact in float32.
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          if (bits > 1) rows[r][slot].offset[half] *= -rows[r][slot].scale[half];
    }

    const uint4* fragments = reinterpret_cast<const uint4*>(stage);
    const SlotSums* sums = reinterpret_cast<const SlotSums*>(fragments + kFragments);
    if (firstRowTile < rowTiles) {
#pragma unroll
      for (int tile = 0; tile < kTiles; ++tile) {
        if (!(tilesThere >> tile & 1)) continue;
#pragma unroll
        for (int slot = 0; slot < kSlots; ++slot) {
          float c[kRowTiles][4];
          float2 sum;
          loadSums(sums + (slot * kTiles + tile) * 4 + lane % 4, c[0], sum);
#pragma unroll
          for (int i = 0; i < 4 * (kRowTiles - 1); ++i) c[1 + i / 4][i % 4] = c[0][i % 4];
#pragma unroll
          for (int pair = slot * 4 / kSlots; pair < (slot + 1) * 4 / kSlots; ++pair) {
            const uint4 b = fragments[(tile * 4 + pair) * 32 + lane];
#pragma unroll
            for (int r = 0; r < kRowTiles; ++r) {
              multiplyTile(c[r], weights[r][2 * pair], b.x, b.y);
              multiplyTile(c[r], weights[r][2 * pair + 1], b.z, b.w);
            }
          }
#pragma unroll
          for (int r = 0; r < kRowTiles; ++r) {
            const RowPair& row = rows[r][slot];
            addToRows(acc[r][tile], row.offset, 1, sum);
#pragma unroll
            for (int j = 0; j < 4; ++j) acc[r][tile][j] = fmaf(row.scale[j / 2], c[r][j], acc[r][tile][j]);
          }
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
