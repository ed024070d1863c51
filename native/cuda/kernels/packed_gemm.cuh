// Packed weights times 9 and more tokens. A CTA of 8 warps takes 128 or 256 rows, 16 to 64 tokens and a part
// of K (gemm_shape.h); a warp takes its 32 rows apart once, in registers, for all of the CTA's tokens.
// cp.async brings a unit's activations, scales and zero points into one of three stages. B fragments lie in
// memory as mma reads them: one LDS.128 is two k-tiles, as ldmatrix.x4 would bring them, and meets no bank
// twice.
//
// Codes of a row tile's units, width after width, are one stream of bytes. A warp has a ring of them for each
// of its row tiles: where it has taken a unit, it lets the bytes come that lie a ring further in the stream.
// So nothing depends on the width that these will turn out to have.
//
// Zero points come off through the sums of activations, which costs 14 instructions for 8 tokens of a slot;
// or off the weights, exactly, in float16: 36 instructions a unit whatever the tokens. Scales are applied to
// the float32 sums of a slot.
#pragma once
#include "cuda/kernels/gemm_shape.h"
#include "cuda/kernels/packed_gemv.cuh"

namespace slim::cuda {

constexpr int kGemmThreads = 32 * kGemmWarps;

/// fieldExcess as two float16.
__device__ constexpr uint32_t excessPair(int bits, int tile, int reg) {
  const int power = (bits == 1 ? 11 : 10) - fieldOf(bits, tile, reg).lowest;
  return both(uint32_t(15 + power) << 10 | (bits == 1 ? 1u << (10 - power) : 0));
}

__device__ __forceinline__ uint32_t addPairs(uint32_t a, uint32_t b) {
  const __half2 sum = __hadd2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
  return reinterpret_cast<const uint32_t&>(sum);
}
__device__ __forceinline__ uint32_t subtractPairs(uint32_t a, uint32_t b) {
  const __half2 difference =
      __hsub2(reinterpret_cast<const __half2&>(a), reinterpret_cast<const __half2&>(b));
  return reinterpret_cast<const uint32_t&>(difference);
}

/// Sums of a warp's tiles go to y, over the splits of K in their order; `rowsOfCta`, gridDim.x CTAs. Warps
/// that are not `there` only keep the others company.
template <int kRowTiles, int kTiles>
__device__ __forceinline__ void finishTiles(const PackedProductArguments& a,
                                            const float (&acc)[kRowTiles][kTiles][4], uint32_t firstRowTile,
                                            uint32_t firstTokenTile, uint32_t rowsOfCta, bool there) {
  const uint32_t lane = threadIdx.x % 32;
  const uint64_t paddedRows = uint64_t(gridDim.x) * rowsOfCta;
  const auto each = [&](const auto& output) {
    if (!there) return;
#pragma unroll
    for (uint32_t r = 0; r < kRowTiles; ++r)
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

/// Dynamic shared memory from a place on.
template <typename T>
__device__ __forceinline__ const T* sharedAt(uint32_t place) {
  extern __shared__ uint4 shared[];
  return reinterpret_cast<const T*>(reinterpret_cast<const char*>(shared) + place);
}

/// What a part of the CTA's warps does.
template <int kTiles, int kSlots>
struct GemmPart {
  static constexpr GemmShape kShape{kTiles, kSlots};
  static constexpr int kThreads = 32 * int(kShape.warpsOfPart());
  static constexpr uint32_t kStageBytes = kShape.stageBytes();
  static constexpr uint32_t kStagesBytes = kShape.stages() * kStageBytes;
  static constexpr uint32_t kRing = kCodeRingBytes;
  static constexpr int kSumsOfTile = 4 * int(floatsOfSums(kSlots));  // floats
  /// Whether zero points come off through the sums of activations.
  static constexpr bool kThroughSums = kTiles * kSlots <= 4;

  uint32_t shared, part, thread, lane;
  // What this thread brings next.
  const uint4 *fragments, *nextSums;
  const char* metadata;
  uint32_t bringsSums, bringsMetadata, unitsToBring;
  // Shared memory: the stages, this thread's place in the metadata of one, this warp's rings.
  uint32_t stages, metadataPlace, ring;
  uint32_t takeAt, bringAt;
  // Lane 0 … 31's 16 bytes of the unit in the ring; the code stream a ring further, and what is left of it
  // there.
  uint32_t ringAt;
  const char* codes[kGemmRowTiles];
  int32_t left;
  float acc[kGemmRowTiles][kTiles][4];

  __device__ __forceinline__ void start(const PackedProductArguments& a, uint32_t firstRowTile,
                                        uint32_t firstUnit, uint32_t units) {
    const uint32_t tokenTiles = gridDim.y * kTiles, firstTokenTile = blockIdx.y * kTiles;
    const uint32_t rowTiles = (a.rows + kUnitRows - 1) / kUnitRows, warp = thread / 32;
    // Row tiles beyond the last are the last again.
    const auto rowTile = [&](uint32_t r) { return min(firstRowTile + r, rowTiles - 1); };
    fragments = static_cast<const uint4*>(a.fragments) +
                (uint64_t(firstUnit) * tokenTiles + firstTokenTile) * 128 + thread;
    bringsSums = thread < kTiles * kSumsOfTile / 4 && (kThroughSums || firstUnit < a.runBegin[1]);
    nextSums = reinterpret_cast<const uint4*>(a.sums) +
               (uint64_t(firstUnit) * tokenTiles + firstTokenTile) * (kSumsOfTile / 4) + thread;
    bringsMetadata = lane < kGemmRowTiles * kSlots * 4;
    metadata = static_cast<const char*>(a.metadata) +
               (uint64_t(rowTile(lane / (kSlots * 4))) * a.units + firstUnit) * (kSlots * 64) +
               lane % (kSlots * 4) * 16;
    unitsToBring = units;
    stages = part * kShape.partBytes();
    metadataPlace = kShape.metadata() + warp * (kGemmRowTiles * kSlots * 64);
    ring = stages + kStagesBytes + warp * (kGemmRowTiles * kRing);
    takeAt = 0;
    bringAt = 0;

    const uint64_t begin = placeOf(a, firstUnit), end = placeOf(a, firstUnit + units);
    ringAt = lane * 16;
    left = int32_t((end - begin) * kUnitBytesABit) - int32_t(lane * 16);
#pragma unroll
    for (uint32_t r = 0; r < kGemmRowTiles; ++r) {
      codes[r] = static_cast<const char*>(a.codes) + (rowTile(r) * a.tileStride + begin) * kUnitBytesABit +
                 lane * 16;
#pragma unroll
      for (uint32_t at = 0; at < kRing; at += 512)
        if (left > int32_t(at)) copyTo(ring + r * kRing + at + lane * 16, codes[r] + at);
      codes[r] += kRing;
    }
    left -= int32_t(kRing);
    for (uint32_t stage = 0; stage + 1 < kShape.stages(); ++stage) {
      bring();
      commitCopies();
      bringAt += kStageBytes;
    }
#pragma unroll
    for (uint32_t i = 0; i < kGemmRowTiles * kTiles * 4; ++i)
      acc[i / (kTiles * 4)][i / 4 % kTiles][i % 4] = 0;
  }

  __device__ __forceinline__ void copyTo(uint32_t place, const void* from) const {
    copyAsync(shared + place, from);
  }
  __device__ __forceinline__ void copyTo8(uint32_t place, const void* from) const {
    copyAsync8(shared + place, from);
  }

  /// Where the codes of a unit begin in a row tile, in units of 256 bytes.
  static __device__ __forceinline__ uint64_t placeOf(const PackedProductArguments& a, uint32_t unit) {
    uint32_t width = 0;
    while (width + 1 < kWidths && unit >= a.runBegin[width + 1]) ++width;
    return a.runOffset[width] + uint64_t(unit - a.runBegin[width]) * widthBits(width);
  }

  /// The next unit's activations, scales and zero points into the stage at bringAt.
  __device__ __forceinline__ void bring() {
    if (unitsToBring == 0) return;
    --unitsToBring;
    const uint32_t stage = stages + bringAt;
#pragma unroll
    for (int i = 0; i < kTiles * 128; i += kThreads) copyTo(stage + (thread + i) * 16, fragments + i);
    if (bringsSums) copyTo(stage + kShape.sums() + thread * 16, nextSums);
    if (bringsMetadata) copyTo(stage + metadataPlace + lane * 16, metadata);
    fragments += gridDim.y * (kTiles * 128);
    nextSums += gridDim.y * (kTiles * kSumsOfTile / 4);
    metadata += kSlots * 64;
  }

  /// Words 4 piece … of the row tiles' unit, or the two that a narrow or odd width has at its end.
  template <int kBits>
  __device__ __forceinline__ void loadPiece(int piece, uint32_t (&words)[kGemmRowTiles][2 * kBits]) const {
#pragma unroll
    for (int r = 0; r < int(kGemmRowTiles); ++r)
      if (piece < kBits / 2) {
        const uint4 v = *sharedAt<uint4>(ring + ((ringAt + piece * 512) & (kRing - 1)) + r * kRing);
        words[r][4 * piece] = v.x, words[r][4 * piece + 1] = v.y, words[r][4 * piece + 2] = v.z,
                     words[r][4 * piece + 3] = v.w;
      } else {
        const uint2 v =
            *sharedAt<uint2>(ring + ((ringAt - lane * 8 + piece * 512) & (kRing - 1)) + r * kRing);
        words[r][2 * kBits - 2] = v.x, words[r][2 * kBits - 1] = v.y;
      }
  }

  /// Lets the bytes come that follow a ring behind those of the unit, in their place: lanes bring what is to
  /// lie where they have read.
  template <int kBits>
  __device__ __forceinline__ void refill() {
#pragma unroll
    for (int piece = 0; piece < kBits / 2; ++piece)
      if (left > piece * 512)
#pragma unroll
        for (uint32_t r = 0; r < kGemmRowTiles; ++r)
          copyTo(ring + ((ringAt + piece * 512) & (kRing - 1)) + r * kRing, codes[r] + piece * 512);
    if (kBits % 2 == 1 && left + int32_t(lane * 8) > kBits / 2 * 512)
#pragma unroll
      for (uint32_t r = 0; r < kGemmRowTiles; ++r)
        copyTo8(ring + ((ringAt - lane * 8 + kBits / 2 * 512) & (kRing - 1)) + r * kRing,
                codes[r] - lane * 8 + kBits / 2 * 512);
    left -= kBits * kUnitBytesABit;
    ringAt = (ringAt + kBits * kUnitBytesABit) & (kRing - 1);
#pragma unroll
    for (uint32_t r = 0; r < kGemmRowTiles; ++r) codes[r] += kBits * kUnitBytesABit;
  }

  using Sums = float[kGemmRowTiles][kTiles][4];

  /// A slot's sums begin: with what comes off through the sums of activations.
  template <int kBits>
  __device__ __forceinline__ void startTile(Sums& c, int slot, int tile, const RowPair (&rows)[kGemmRowTiles],
                                            const float* sums) {
    float4 start{};
    if constexpr (kThroughSums) start = reinterpret_cast<const float4*>(sums + tile * kSumsOfTile)[slot];
#pragma unroll
    for (uint32_t r = 0; r < kGemmRowTiles; ++r) {
      c[r][tile][0] = start.x, c[r][tile][1] = start.y, c[r][tile][2] = start.z, c[r][tile][3] = start.w;
      if constexpr (kThroughSums)
        addToRows(kBits > 1 ? c[r][tile] : acc[r][tile], rows[r].offset, sumOf(sums, slot, tile));
    }
  }

  template <int kBits>
  __device__ __forceinline__ void finishTile(Sums& c, int slot, int tile,
                                             const RowPair (&rows)[kGemmRowTiles], const float* sums) {
#pragma unroll
    for (uint32_t r = 0; r < kGemmRowTiles; ++r) {
#pragma unroll
      for (int j = 0; j < 4; ++j)
        acc[r][tile][j] = fmaf(rows[r].scale[j / 2], c[r][tile][j], acc[r][tile][j]);
      if constexpr (!kThroughSums && kBits == 1)
        addToRows(acc[r][tile], rows[r].offset, sumOf(sums, slot, tile));
    }
  }

  static __device__ __forceinline__ float2 sumOf(const float* sums, int slot, int tile) {
    return reinterpret_cast<const float2*>(sums + tile * kSumsOfTile)[2 * kSlots + slot];
  }

  /// Two k-tiles of weights.
  template <int kBits>
  __device__ __forceinline__ void takeApart(int pair, uint32_t (&words)[kGemmRowTiles][2 * kBits],
                                            const uint32_t (&taken)[kGemmRowTiles][4],
                                            uint32_t (&weights)[kGemmRowTiles][2][4]) const {
    // Words as late as they are needed: those of 8 bits would fill the registers.
    if constexpr (kBits >= 4) {
      if (pair * kBits % 8 == 0) loadPiece<kBits>(pair * kBits / 8, words);
    } else if (pair == 0) {
#pragma unroll
      for (int piece = 0; piece < (kBits + 1) / 2; ++piece) loadPiece<kBits>(piece, words);
    }
#pragma unroll
    for (uint32_t r = 0; r < kGemmRowTiles; ++r)
#pragma unroll
      for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int reg = 0; reg < 4; ++reg) {
          weights[r][half][reg] = weightPair<kBits>(words[r], 2 * pair + half, reg);
          if constexpr (!kThroughSums)
            weights[r][half][reg] = subtractPairs(
                weights[r][half][reg], kBits > 1 ? taken[r][reg] : excessPair(kBits, 2 * pair + half, reg));
        }
  }

  template <int kBits>
  __device__ __forceinline__ void multiplyUnit() {
    const uint32_t stage = stages + takeAt;
    const uint4* inputs = sharedAt<uint4>(stage) + lane;
    const uint2* rowsOfLane = sharedAt<uint2>(stage + metadataPlace) + lane / 4 * kSlots;
    const float* sums = sharedAt<float>(stage + kShape.sums()) + lane % 4 * floatsOfSums(kSlots);
    uint32_t words[kGemmRowTiles][2 * kBits];
#pragma unroll
    for (int slot = 0; slot < kSlots; ++slot) {
      uint2 packed[kGemmRowTiles];
      uint32_t taken[kGemmRowTiles][4];  // what comes off a register of weights: excess + zero point
      Sums c;
#pragma unroll
      for (uint32_t r = 0; r < kGemmRowTiles; ++r) {
        packed[r] = rowsOfLane[r * kSlots * 8 + slot];
        if constexpr (!kThroughSums && kBits > 1) {
          const uint32_t zeros[2] = {__byte_perm(packed[r].x, 0, 0x3232),
                                     __byte_perm(packed[r].y, 0, 0x3232)};
#pragma unroll
          for (int reg = 0; reg < 4; ++reg)
            taken[r][reg] = addPairs(zeros[reg % 2], excessPair(kBits, 0, reg));
        }
      }
      RowPair rows[kGemmRowTiles];
      constexpr int kPairs = 4 / kSlots;
#pragma unroll
      for (int nth = 0; nth < kPairs; ++nth) {
        const int pair = slot * kPairs + nth;
        uint32_t weights[kGemmRowTiles][2][4];
        takeApart<kBits>(pair, words, taken, weights);
        if (nth == (kThroughSums ? 0 : kPairs - 1))  // no sooner: registers
#pragma unroll
          for (uint32_t r = 0; r < kGemmRowTiles; ++r) rows[r] = rowPair(packed[r]);
#pragma unroll
        for (int tile = 0; tile < kTiles; ++tile) {
          if (nth == 0) startTile<kBits>(c, slot, tile, rows, sums);
          const uint4 b = inputs[(tile * 4 + pair) * 32];
#pragma unroll
          for (uint32_t r = 0; r < kGemmRowTiles; ++r) multiplyTile(c[r][tile], weights[r][0], b.x, b.y);
#pragma unroll
          for (uint32_t r = 0; r < kGemmRowTiles; ++r) multiplyTile(c[r][tile], weights[r][1], b.z, b.w);
          if (nth == kPairs - 1) finishTile<kBits>(c, slot, tile, rows, sums);
        }
      }
    }
  }

  template <int kBits>
  __device__ __forceinline__ void sweep(uint32_t units) {
    // Of copies that were begun, those of so many last units may still be on their way: the stages have it
    // so, and the ring, in which a unit's bytes were begun kRing / (its bytes) units before.
    constexpr int kOfStages = int(kShape.stages()) - 2, kOfRing = int(kRing) / (kBits * kUnitBytesABit) - 1;
#pragma unroll 1
    for (; units > 0; --units) {
      waitCopies<(kOfStages < kOfRing ? kOfStages : kOfRing)>();
      synchronize();  // what was brought is there, and nobody reads the stage that is filled next
      bring();
      multiplyUnit<kBits>();
      refill<kBits>();
      commitCopies();
      bringAt = takeAt;
      takeAt = takeAt + kStageBytes == kStagesBytes ? 0 : takeAt + kStageBytes;
    }
  }

  __device__ __forceinline__ void synchronize() const {
    asm volatile("bar.sync %0, %1;" ::"r"(1 + part), "n"(kThreads) : "memory");
  }

  /// Units [begin, end), width after width.
  template <int kWidth = 0>
  __device__ __forceinline__ void sweepWidths(const PackedProductArguments& a, uint32_t begin, uint32_t end) {
    if constexpr (kWidth < kWidths) {
      const uint32_t from = max(begin, a.runBegin[kWidth]), to = min(end, a.runBegin[kWidth + 1]);
      if (from < to) sweep<widthBits(kWidth)>(to - from);
      sweepWidths<kWidth + 1>(a, begin, end);
    }
  }
};

template <int kTiles, int kSlots>
__device__ __forceinline__ void packedGemm(const PackedProductArguments& a) {
  extern __shared__ uint4 shared[];
  using Part = GemmPart<kTiles, kSlots>;
  constexpr GemmShape kShape = Part::kShape;
  constexpr uint32_t kParts = kShape.parts(), kRowTiles = kGemmRowTiles;
  Part work;
  work.shared = sharedAddress(shared);
  work.part = threadIdx.x / Part::kThreads;
  work.thread = threadIdx.x % Part::kThreads;
  work.lane = threadIdx.x % 32;
  const uint32_t stripe = blockIdx.z * kParts + work.part;
  const uint32_t firstRowTile = (blockIdx.x * kShape.warpsOfPart() + work.thread / 32) * kRowTiles;
  const uint32_t begin = a.stripes[stripe], end = a.stripes[stripe + 1];
  work.start(a, firstRowTile, begin, end - begin);
  work.sweepWidths(a, begin, end);
  waitCopies<0>();

  if constexpr (kParts == 2) {
    float* others = reinterpret_cast<float*>(shared) + work.thread;
    __syncthreads();
    if (work.part == 1)
#pragma unroll
      for (uint32_t i = 0; i < kRowTiles * kTiles * 4; ++i)
        others[i * Part::kThreads] = work.acc[i / (kTiles * 4)][i / 4 % kTiles][i % 4];
    __syncthreads();
    if (work.part == 0)
#pragma unroll
      for (uint32_t i = 0; i < kRowTiles * kTiles * 4; ++i)
        work.acc[i / (kTiles * 4)][i / 4 % kTiles][i % 4] += others[i * Part::kThreads];
  }

  finishTiles(a, work.acc, firstRowTile, blockIdx.y * kTiles, kShape.rows(), work.part == 0);
}

}  // namespace slim::cuda

// packedGemm{tokens of a CTA}x{slots of a unit}
extern "C" {
__global__ void __launch_bounds__(256, 2) packedGemm16x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<2, 1>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm32x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<4, 1>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm64x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<8, 1>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm16x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<2, 2>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm32x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<4, 2>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemm16x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<2, 4>(a);
}
__global__ void __launch_bounds__(256, 1) packedGemm32x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemm<4, 4>(a);
}
}
