// Packed weights times many tokens, in panels of rows: dequantizePanel… makes float16 of them, in the order
// of the A fragments; panelGemm… multiplies those by the activations' B fragments. Both operands lie in
// shared memory as mma reads them: LDS.128 brings what ldmatrix would. Weights are rounded to float16 (11
// bits, or 2^-39 of the matrix's largest).
#pragma once
#include "cuda/kernels/packed_gemm.cuh"

namespace slim::cuda {

__device__ __forceinline__ uint32_t scaledPair(float value, float scale) {
  const __half2 pair = __half2half2(__float2half_rn(value * scale));
  return reinterpret_cast<const uint32_t&>(pair);
}

template <int kBits, int kSlots>
__device__ __forceinline__ void dequantizeUnit(const char* codes, const uint2* metadata, float scale,
                                               int lane, uint4* out) {
  uint32_t words[2 * kBits];
  loadWords<kBits>(firstWords<kBits>(codes, lane), lane, words);
  uint2 rowsOfSlots[kSlots];
  loadRows<kSlots>(metadata, rowsOfSlots);
#pragma unroll
  for (int slot = 0; slot < kSlots; ++slot) {
    const uint2 packed = rowsOfSlots[slot];
    const RowPair rows = rowPair(packed);
    const uint32_t scales[2] = {scaledPair(rows.scale[0], scale), scaledPair(rows.scale[1], scale)};
    // What comes off the weights' fields; of 1 bit the mean, which is added at last.
    const uint32_t offsets[2] = {
        kBits > 1 ? __byte_perm(packed.x, 0, 0x3232) : scaledPair(rows.offset[0], scale),
        kBits > 1 ? __byte_perm(packed.y, 0, 0x3232) : scaledPair(rows.offset[1], scale)};
#pragma unroll
    for (int tile = slot * 8 / kSlots; tile < (slot + 1) * 8 / kSlots; ++tile) {
      uint32_t weights[4];
#pragma unroll
      for (int reg = 0; reg < 4; ++reg) {
        const uint32_t excess = excessPair(kBits, tile, reg);
        const uint32_t code = subtractPairs(weightPair<kBits>(words, tile, reg),
                                            kBits > 1 ? addPairs(offsets[reg % 2], excess) : excess);
        const __half2& left = reinterpret_cast<const __half2&>(code);
        const __half2& right = reinterpret_cast<const __half2&>(scales[reg % 2]);
        const __half2 weight = kBits > 1
                                   ? __hmul2(left, right)
                                   : __hfma2(left, right, reinterpret_cast<const __half2&>(offsets[reg % 2]));
        weights[reg] = reinterpret_cast<const uint32_t&>(weight);
      }
      out[tile * 32 + lane] = make_uint4(weights[0], weights[1], weights[2], weights[3]);
    }
  }
}

/// One unit (blockIdx.x) of 8 row tiles (blockIdx.y), a warp each. Row tiles beyond the last are the last
/// again.
template <int kSlots>
__device__ __forceinline__ void dequantizePanel(const DequantizePanelArguments& a) {
  const uint32_t lane = threadIdx.x % 32, unit = blockIdx.x, place = blockIdx.y * 8 + threadIdx.x / 32;
  const uint64_t tile = min(a.firstTile + place, a.tiles - 1);
  uint32_t width = 0;
  while (unit >= a.runBegin[width + 1]) ++width;
  const uint64_t run = a.runOffset[width] + uint64_t(unit - a.runBegin[width]) * widthBits(width);
  const char* codes = static_cast<const char*>(a.codes) + (tile * a.tileStride + run) * kUnitBytesABit;
  const uint2* metadata =
      static_cast<const uint2*>(a.metadata) + ((tile * a.units + unit) * 8 + lane / 4) * kSlots;
  uint4* out = static_cast<uint4*>(a.panel) + (uint64_t(place) * a.units + unit) * 256;
  switch (width) {
    case 0:
      return dequantizeUnit<1, kSlots>(codes, metadata, a.scale, lane, out);
    case 1:
      return dequantizeUnit<2, kSlots>(codes, metadata, a.scale, lane, out);
    case 2:
      return dequantizeUnit<3, kSlots>(codes, metadata, a.scale, lane, out);
    case 3:
      return dequantizeUnit<4, kSlots>(codes, metadata, a.scale, lane, out);
    default:
      return dequantizeUnit<8, kSlots>(codes, metadata, a.scale, lane, out);
  }
}

/// 128 rows × 128 tokens a CTA of 4 warps, 64 × 64 a warp: 16 shared loads for 64 mma. 32 columns a stage.
__device__ __forceinline__ void panelGemm(const PackedProductArguments& a) {
  extern __shared__ uint4 shared[];
  constexpr uint32_t kRowWarps = 2, kRowTiles = 4,
                     kTokenTiles = kPanelGemmTokens / 8;  // of a warp; of the CTA
  constexpr uint32_t kStage = 512 + kTokenTiles * 32;     // in vectors
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t rowWarp = warp % kRowWarps, tokenWarp = warp / kRowWarps;
  const uint32_t tokenTiles = gridDim.y * kTokenTiles;
  const uint32_t end = a.stripes[blockIdx.z + 1] * 4;
  uint32_t next = a.stripes[blockIdx.z] * 4, bringAt = 0;
  const uint64_t tileStride = a.units * 256;
  const uint4* weights =
      static_cast<const uint4*>(a.codes) + (blockIdx.x * 8 + thread / 64) * tileStride + thread % 64;
  const uint4* inputs =
      static_cast<const uint4*>(a.fragments) + (blockIdx.y * kTokenTiles + thread / 32) * 128 + lane;
  const auto bring = [&] {
    if (next < end) {
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i)
        copyAsync(shared + bringAt + i * 128 + thread, weights + next * 64 + 2 * i * tileStride);
      const uint4* from = inputs + uint64_t(next / 4) * tokenTiles * 128 + next % 4 * 32;
#pragma unroll
      for (uint32_t i = 0; i < kTokenTiles / 4; ++i)
        copyAsync(shared + bringAt + 512 + i * 128 + thread, from + i * 512);
      ++next;
      bringAt = bringAt == (kPanelStages - 1) * kStage ? 0 : bringAt + kStage;
    }
    commitCopies();
  };
  const uint32_t steps = end - next;
  for (uint32_t i = 0; i + 1 < kPanelStages; ++i) bring();
  float acc[kRowTiles][8][4] = {};
  uint32_t takeAt = 0;
#pragma unroll 1
  for (uint32_t step = 0; step < steps; ++step) {
    waitCopies<kPanelStages - 2>();
    __syncthreads();  // what this stage brought is there, and nobody reads the one that is refilled next
    bring();
    const uint4* left = shared + takeAt + rowWarp * kRowTiles * 64 + lane;
    const uint4* right = shared + takeAt + 512 + tokenWarp * 256 + lane;
    takeAt = takeAt == (kPanelStages - 1) * kStage ? 0 : takeAt + kStage;
    uint32_t tiles[kRowTiles][2][4];
#pragma unroll
    for (uint32_t r = 0; r < kRowTiles; ++r)
#pragma unroll
      for (uint32_t half = 0; half < 2; ++half) {
        const uint4 v = left[(r * 2 + half) * 32];
        tiles[r][half][0] = v.x, tiles[r][half][1] = v.y, tiles[r][half][2] = v.z, tiles[r][half][3] = v.w;
      }
#pragma unroll
    for (uint32_t tile = 0; tile < 8; ++tile) {
      const uint4 b = right[tile * 32];
#pragma unroll
      for (uint32_t r = 0; r < kRowTiles; ++r) multiplyTile(acc[r][tile], tiles[r][0], b.x, b.y);
#pragma unroll
      for (uint32_t r = 0; r < kRowTiles; ++r) multiplyTile(acc[r][tile], tiles[r][1], b.z, b.w);
    }
  }
  waitCopies<0>();
#pragma unroll
  for (uint32_t i = 0; i < kRowTiles * 32; ++i) acc[i / 32][i / 4 % 8][i % 4] *= a.unscale;
  finishTiles(a, acc, (blockIdx.x * kRowWarps + rowWarp) * kRowTiles,
              blockIdx.y * kTokenTiles + tokenWarp * 8, kPanelGemmRows, true);
}

}  // namespace slim::cuda

// dequantizePanel{slots of a unit}
extern "C" {
__global__ void __launch_bounds__(256)
    dequantizePanel1(const __grid_constant__ slim::cuda::DequantizePanelArguments a) {
  slim::cuda::dequantizePanel<1>(a);
}
__global__ void __launch_bounds__(256)
    dequantizePanel2(const __grid_constant__ slim::cuda::DequantizePanelArguments a) {
  slim::cuda::dequantizePanel<2>(a);
}
__global__ void __launch_bounds__(256)
    dequantizePanel4(const __grid_constant__ slim::cuda::DequantizePanelArguments a) {
  slim::cuda::dequantizePanel<4>(a);
}
__global__ void __launch_bounds__(128, 2) panelGemm(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::panelGemm(a);
}
}
