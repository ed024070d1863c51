// Packed weights times 1 to 8 tokens. The weights are the A operand of mma.m16n8k16 even for one token:
// taking them apart costs one LOP3 for two weights, the products and sums nearly nothing beside it. A CTA has
// 8 warps; `warpsOfTile` of them share 16 rows and split K, and so do the CTAs of gridDim.y. Activations of
// the CTA's part of K lie in shared memory. All sums run in a fixed order.
//
// Loads in flight: 3 units of 2 bits a warp are 1.5 KB; 24 warps an SM, at most 80 registers each, hold 36
// KB, of which 4.3 TB/s at 700 ns need 23. Groups of 64 and less need more registers for their scales: 16
// warps, 24 KB.
#pragma once
#include "cuda/kernels/fragments.cuh"

namespace slim::cuda {

constexpr int kGemvThreads = 256;

/// c += offset · sum: the rows' offsets, two tokens' sums of activations.
__device__ __forceinline__ void addToRows(float (&c)[4], const float (&offset)[2], float2 sum) {
#pragma unroll
  for (int j = 0; j < 4; ++j) c[j] = fmaf(offset[j / 2], j % 2 ? sum.y : sum.x, c[j]);
}

/// Two tokens' sums of activations over the slots of a unit.
template <int kSlots>
struct UnitSums {
  float values[floatsOfSums(kSlots)];

  __device__ __forceinline__ explicit UnitSums(const float* from) {
#pragma unroll
    for (int i = 0; i < int(floatsOfSums(kSlots)); i += 4) {
      if (kSlots == 1 && i == 4) {
        const float2 v = *reinterpret_cast<const float2*>(from + i);
        values[4] = v.x, values[5] = v.y;
        break;
      }
      const float4 v = *reinterpret_cast<const float4*>(from + i);
      values[i] = v.x, values[i + 1] = v.y, values[i + 2] = v.z, values[i + 3] = v.w;
    }
  }
  __device__ __forceinline__ void start(float (&c)[4], int slot) const {
#pragma unroll
    for (int j = 0; j < 4; ++j) c[j] = values[4 * slot + j];
  }
  __device__ __forceinline__ float2 sum(int slot) const {
    return {values[4 * kSlots + 2 * slot], values[4 * kSlots + 2 * slot + 1]};
  }
};

/// `vectors` of 16 bytes, by all threads of the CTA.
__device__ __forceinline__ void copyToShared(uint4* to, const uint4* from, uint32_t vectors) {
  uint32_t address = sharedAddress(to + threadIdx.x);
  const uint32_t end = sharedAddress(to + vectors);
  from += threadIdx.x;
#pragma unroll 4
  for (; address < end; address += 16 * kGemvThreads, from += kGemvThreads) copyAsync(address, from);
}

/// 16 rows of a warp's part of K.
template <int kTokens, int kSlots>
struct GemvWarp {
  static constexpr int kTokenPairs = (kTokens + 1) / 2;
  static constexpr int kUnitSums = kTokenPairs * int(floatsOfSums(kSlots));  // floats

  /// A run of units, and this lane's words, rows and activations of its first.
  struct Run {
    const char* codes;  // firstWords
    const uint2* metadata;
    const uint4* fragments;
    const float* sums;
  };

  float acc[4];

  template <int kBits>
  __device__ __forceinline__ void sweep(Run run, uint32_t units, uint32_t lane) {
    constexpr int kBatch = kSlots == 4 ? (kBits <= 2 ? 2 : 1) : kBits <= 2 ? 3 : kBits <= 4 ? 2 : 1;
#pragma unroll 1
    for (; units >= kBatch; units -= kBatch) batch<kBits, kBatch>(run, lane);
    if constexpr (kBatch > 1) {
#pragma unroll 1
      for (; units > 0; --units) batch<kBits, 1>(run, lane);
    }
  }

  template <int kBits, int kBatch, int kUnit = 0>
  __device__ __forceinline__ static void load(const Run& run, uint32_t lane,
                                              uint32_t (&words)[kBatch][2 * kBits],
                                              uint2 (&rows)[kBatch][kSlots]) {
    if constexpr (kUnit < kBatch) {
      loadWords<kBits, kUnit>(run.codes, lane, words[kUnit]);
      loadRows<kSlots, kUnit>(run.metadata, rows[kUnit]);
      load<kBits, kBatch, kUnit + 1>(run, lane, words, rows);
    }
  }

  /// kBatch units, whose loads are all in flight before the first is taken apart; run moves past them.
  template <int kBits, int kBatch>
  __device__ __forceinline__ void batch(Run& run, uint32_t lane) {
    uint32_t words[kBatch][2 * kBits];
    uint2 rows[kBatch][kSlots];
    load<kBits, kBatch>(run, lane, words, rows);
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const UnitSums<kSlots> sums(run.sums + i * kUnitSums);
#pragma unroll
      for (int slot = 0; slot < kSlots; ++slot) {
        const RowPair row = rowPair(rows[i][slot]);
        float c[4];
        sums.start(c, slot);
        if constexpr (kBits > 1) addToRows(c, row.offset, sums.sum(slot));
#pragma unroll
        for (int pair = slot * 4 / kSlots; pair < (slot + 1) * 4 / kSlots; ++pair) {
          const uint4 x = run.fragments[(i * 4 + pair) * 4 * kTokens];
          uint32_t even[4], odd[4];
#pragma unroll
          for (int reg = 0; reg < 4; ++reg) {
            even[reg] = weightPair<kBits>(words[i], 2 * pair, reg);
            odd[reg] = weightPair<kBits>(words[i], 2 * pair + 1, reg);
          }
          multiplyTile(c, even, x.x, x.y);
          multiplyTile(c, odd, x.z, x.w);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[j] = fmaf(row.scale[j / 2], c[j], acc[j]);
        if constexpr (kBits == 1) addToRows(acc, row.offset, sums.sum(slot));
      }
    }
    run.codes += kBatch * kBits * kUnitBytesABit;
    run.metadata += kBatch * kSlots * 8;
    run.fragments += kBatch * 16 * kTokens;
    run.sums += kBatch * kUnitSums;
  }

  /// Units [begin, end), width after width; `activations` are those of `firstUnit`.
  template <int kWidth>
  __device__ __forceinline__ void sweepWidths(const PackedProductArguments& a, uint32_t rowTile,
                                              const Run& activations, uint32_t firstUnit, uint32_t begin,
                                              uint32_t end, uint32_t lane) {
    if constexpr (kWidth < kWidths) {
      constexpr int kBits = widthBits(kWidth);
      const uint32_t from = max(begin, a.runBegin[kWidth]), to = min(end, a.runBegin[kWidth + 1]);
      if (from < to) {
        const uint64_t place =
            rowTile * a.tileStride + a.runOffset[kWidth] + uint64_t(from - a.runBegin[kWidth]) * kBits;
        const uint64_t unit = uint64_t(rowTile) * a.units + from;
        const uint32_t skipped = from - firstUnit;
        sweep<kBits>(
            {firstWords<kBits>(static_cast<const char*>(a.codes) + place * kUnitBytesABit, lane),
             static_cast<const uint2*>(a.metadata) + (unit * 8 + lane / 4) * kSlots,
             activations.fragments + skipped * (16 * kTokens), activations.sums + skipped * kUnitSums},
            to - from, lane);
      }
      sweepWidths<kWidth + 1>(a, rowTile, activations, firstUnit, begin, end, lane);
    }
  }
};

__device__ __forceinline__ void finishOutput(const PackedProductArguments& a, float sum, uint32_t row,
                                             uint32_t token) {
  float* y = a.y + token * a.yStride + row;
  float value = sum * a.scales[a.tokens + token];
  if (a.bias) value += a.bias[row];
  if (a.accumulate) value += *y;
  *y = value;
}

/// True in all threads of the CTA that is the last of its gridDim.`splits` to come; what the others stored
/// before is visible to it then.
__device__ __forceinline__ bool isLastArrival(uint32_t* arrivals, uint32_t splits) {
  __shared__ uint32_t order;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) {
    order = atomicAdd(arrivals, 1);
    if (order == splits - 1) *arrivals = 0;
  }
  __syncthreads();
  __threadfence();
  return order == splits - 1;
}

template <int kTokens, int kSlots>
__device__ __forceinline__ void packedGemv(const PackedProductArguments& a) {
  extern __shared__ uint4 shared[];
  using Warp = GemvWarp<kTokens, kSlots>;
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t tilesOfCta = 8 / a.warpsOfTile, rowTiles = (a.rows + kUnitRows - 1) / kUnitRows;
  const uint32_t rowTile = blockIdx.x * tilesOfCta + warp / a.warpsOfTile;
  const uint32_t firstStripe = blockIdx.y * a.warpsOfTile;
  const uint32_t firstUnit = a.stripes[firstStripe];
  const uint32_t units = a.stripes[firstStripe + a.warpsOfTile] - firstUnit;

  uint4* fragments = shared;
  uint4* sums = fragments + units * (16 * kTokens);
  copyToShared(fragments, static_cast<const uint4*>(a.fragments) + firstUnit * (16 * kTokens),
               units * (16 * kTokens));
  copyToShared(sums, reinterpret_cast<const uint4*>(a.sums) + firstUnit * (Warp::kUnitSums / 4),
               units * (Warp::kUnitSums / 4));
  commitCopies();
  waitCopies<0>();
  __syncthreads();

  // Lanes beyond the tokens multiply those again; what they make is not looked at.
  Warp work{{0, 0, 0, 0}};
  if (rowTile < rowTiles) {
    const uint32_t stripe = firstStripe + warp % a.warpsOfTile;
    work.template sweepWidths<0>(
        a, rowTile,
        {nullptr, nullptr, fragments + lane / 4 % kTokens * 4 + lane % 4,
         reinterpret_cast<const float*>(sums) + lane % 4 % Warp::kTokenPairs * floatsOfSums(kSlots)},
        firstUnit, a.stripes[stripe], a.stripes[stripe + 1], lane);
  }

  __syncthreads();
  float* partial = reinterpret_cast<float*>(shared);  // [warp][token][row], kTokenStride a token
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t token = lane % 4 * 2 + i % 2, row = lane / 4 + i / 2 * 8;
    if (token < kTokens) partial[(warp * kTokens + token) * kTokenStride + row] = work.acc[i];
  }
  __syncthreads();
  const uint32_t outputs = tilesOfCta * kTokens * kUnitRows;
  const bool split = gridDim.y > 1;
  const uint64_t ofSplit = uint64_t(gridDim.x) * outputs, ofCta = uint64_t(blockIdx.x) * outputs;
  for (uint32_t o = thread; o < outputs; o += kGemvThreads) {
    const uint32_t tile = o / (kTokens * kUnitRows), nth = o / kUnitRows % kTokens, row = o % kUnitRows;
    // Tokens n and n + 4 lie 16 banks apart: a warp reads such two.
    const uint32_t token = kTokens == 8 ? nth % 2 * 4 + nth / 2 : nth;
    float sum = 0;
    for (uint32_t w = 0; w < a.warpsOfTile; ++w)
      sum += partial[((tile * a.warpsOfTile + w) * kTokens + token) * kTokenStride + row];
    const uint32_t outRow = (blockIdx.x * tilesOfCta + tile) * kUnitRows + row;
    if (split)
      a.workspace[blockIdx.y * ofSplit + ofCta + o] = sum;
    else if (token < a.tokens && outRow < a.rows)
      finishOutput(a, sum, outRow, token);
  }
  if (!split || !isLastArrival(a.arrivals + blockIdx.x, gridDim.y)) return;
  for (uint32_t o = thread; o < outputs; o += kGemvThreads) {
    const uint32_t tile = o / (kTokens * kUnitRows), nth = o / kUnitRows % kTokens, row = o % kUnitRows;
    const uint32_t token = kTokens == 8 ? nth % 2 * 4 + nth / 2 : nth;
    float sum = 0;
    for (uint32_t s = 0; s < gridDim.y; ++s) sum += __ldcg(a.workspace + s * ofSplit + ofCta + o);
    const uint32_t outRow = (blockIdx.x * tilesOfCta + tile) * kUnitRows + row;
    if (token < a.tokens && outRow < a.rows) finishOutput(a, sum, outRow, token);
  }
}

}  // namespace slim::cuda

// packedGemv{tokens of a tile}x{slots of a unit}
using slim::cuda::PackedProductArguments;
extern "C" {
__global__ void __launch_bounds__(256, 3) packedGemv1x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<1, 1>(a);
}
__global__ void __launch_bounds__(256, 3) packedGemv4x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<4, 1>(a);
}
__global__ void __launch_bounds__(256, 3) packedGemv8x1(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<8, 1>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemv1x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<1, 2>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemv4x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<4, 2>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemv8x2(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<8, 2>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemv1x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<1, 4>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemv4x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<4, 4>(a);
}
__global__ void __launch_bounds__(256, 2) packedGemv8x4(const __grid_constant__ PackedProductArguments a) {
  slim::cuda::packedGemv<8, 4>(a);
}
}
