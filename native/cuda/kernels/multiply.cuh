// C = alpha · A · Bᵀ (+ C) in nearly float32 precision on tensor cores. Every operand is split into two tf32
// parts of 11 bits, x = big + small, and big·big + big·small + small·big are summed: what is left out is
// below 2^-22 |a||b|. Tensor cores truncate the sums they make, which would add up over a long K; so each 8
// columns' products start from zero there, and are added to the sum in float32, rounded to nearest.
#pragma once
#include "cuda/kernels/dense.cuh"
#include "cuda/kernels/fragments.cuh"
#include "cuda/kernels/linear_algebra_arguments.h"

namespace slim::cuda {

constexpr uint32_t kMultiplyDepth = 16, kMultiplyStages = 3;

/// 16 bytes, of which the first `bytes` are copied and the rest are zeros. What is not copied is not read,
/// wherever it would lie.
__device__ __forceinline__ void copyAsyncPart(float* shared, const float* global, uint32_t bytes) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(sharedAddress(shared)), "l"(global),
               "r"(bytes)
               : "memory");
}
/// 4 bytes, or a zero.
__device__ __forceinline__ void copyAsyncElement(float* shared, const float* global, bool valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(sharedAddress(shared)), "l"(global),
               "r"(valid ? 4 : 0)
               : "memory");
}
__device__ __forceinline__ uint32_t bytesLeft(uint32_t from, uint32_t end) {
  return from < end ? 4 * min(4u, end - from) : 0;
}

/// kTile rows × 16 columns of an operand, on their way from global to shared memory by 2 · kTile threads. In
/// shared memory they lie as in global memory, in pieces of 16 bytes whose order is such that neither copies
/// nor fragments meet a bank twice: of a row, the halves change places in every second pair of rows; of a
/// column, runs of 8 change places by (column / 2) % 4.
template <uint32_t kTile, bool kColumnMajor>
class OperandCopy {
 public:
  __device__ OperandCopy(const MultiplyOperand& operand, uint32_t first, uint64_t apart) : operand_(operand) {
    const uint64_t row = first + this->row(), column = this->column();
    from_ = operand.data + blockIdx.z * apart +
            (kColumnMajor ? column * operand.stride + row : row * operand.stride + column);
  }

  /// Queues the next 16 columns, from where on there are `rows` × `depth` elements.
  __device__ __forceinline__ void next(float* tile, uint32_t rows, uint32_t depth) {
    const uint32_t row = this->row(), column = this->column();
    tile += kColumnMajor ? column * kTile + (row ^ 8 * (column / 2 % 4))
                         : row * kMultiplyDepth + (column ^ 8 * (row / 2 % 2));
    if (inVectors()) {
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const float* from = from_ + i * operand_.stride * (kColumnMajor ? 8 : kTile / 2);
        uint32_t bytes;
        if constexpr (kColumnMajor)
          bytes = column + 8 * i < depth ? bytesLeft(row, rows) : 0;
        else
          bytes = row + kTile / 2 * i < rows ? bytesLeft(column, depth) : 0;
        copyAsyncPart(tile + 8 * kTile * i, from, bytes);
      }
    } else {
#pragma unroll
      for (uint32_t i = 0; i < 8; ++i) {
        const float* from = from_ + i * operand_.stride * (kColumnMajor ? 2 : kTile / 8);
        if constexpr (kColumnMajor) {
          float* to =
              tile - row + (row ^ 8 * (i % 4)) + 2 * kTile * i;  // of column + 2 · i, column being 0 or 1
          copyAsyncElement(to, from, column + 2 * i < depth && row < rows);
        } else {
          copyAsyncElement(tile + 2 * kTile * i, from, row + kTile / 8 * i < rows && column < depth);
        }
      }
    }
    from_ += kColumnMajor ? kMultiplyDepth * operand_.stride : kMultiplyDepth;
  }

 private:
  // The larger tile is for vectors alone: it would not have registers enough for both.
  __device__ __forceinline__ bool inVectors() const { return kTile == 128 || operand_.vectors; }
  // Of the first piece, or element, that a thread copies.
  __device__ __forceinline__ uint32_t row() const {
    if (kColumnMajor) return inVectors() ? threadIdx.x % (kTile / 4) * 4 : threadIdx.x % kTile;
    return inVectors() ? threadIdx.x / 4 : threadIdx.x / kMultiplyDepth;
  }
  __device__ __forceinline__ uint32_t column() const {
    if (kColumnMajor) return inVectors() ? threadIdx.x / (kTile / 4) : threadIdx.x / kTile;
    return inVectors() ? threadIdx.x % 4 * 4 : threadIdx.x % kMultiplyDepth;
  }

  const MultiplyOperand& operand_;
  const float* from_;
};

/// Columns 8 · step + 2t and + 1 of row `first` + g, `first` a multiple of 8; g = lane / 4, t = lane % 4.
/// They take the places t and t + 4 of a fragment: any order of K serves that is the same for both operands.
template <uint32_t kTile, bool kColumnMajor>
__device__ __forceinline__ float2 operandPair(const float* tile, uint32_t first, uint32_t step) {
  const uint32_t g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  if constexpr (kColumnMajor) {
    const float* at = tile + (8 * step + 2 * t) * kTile + (first ^ 8 * t) + g;
    return make_float2(at[0], at[kTile]);
  } else {
    return *reinterpret_cast<const float2*>(tile + (first + g) * kMultiplyDepth +
                                            (8 * step ^ 8 * (g / 2 % 2)) + 2 * t);
  }
}

struct SplitTf32 {
  uint32_t big, small;
};
__device__ __forceinline__ SplitTf32 splitTf32(float x) {
  const float big = roundToTf32(x);
  return {__float_as_uint(big), __float_as_uint(roundToTf32(x - big))};
}

/// One CTA kTile × kTile elements of C, one warp kTile / 2 × 32 of them.
template <uint32_t kTile, bool kColumnsA, bool kColumnsB>
__device__ __forceinline__ void multiplyTiles(const MultiplyArguments& a) {
  constexpr uint32_t kRowTiles = kTile / 32, kColumnTiles = 4, kFloats = kTile * kMultiplyDepth;
  __shared__ __align__(16) float tiles[kMultiplyStages][2][kFloats];
  const uint32_t firstRow = blockIdx.y * kTile, firstColumn = blockIdx.x * kTile;
  if (a.upperOnly && firstColumn + kTile <= firstRow) return;
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const uint32_t warpRow = warp % 2 * (kTile / 2), warpColumn = warp / 2 * 32;

  OperandCopy<kTile, kColumnsA> copyA(a.a, firstRow, a.aApart);
  OperandCopy<kTile, kColumnsB> copyB(a.b, firstColumn, a.bApart);
#pragma unroll
  for (uint32_t stage = 0; stage + 1 < kMultiplyStages; ++stage) {
    if (const uint32_t start = kMultiplyDepth * stage; start < a.k) {
      copyA.next(tiles[stage][0], a.m - firstRow, a.k - start);
      copyB.next(tiles[stage][1], a.n - firstColumn, a.k - start);
    }
    commitCopies();
  }
  float sums[kRowTiles][kColumnTiles][4] = {};
  uint32_t stage = 0;
  for (int left = int(a.k); left > 0; left -= int(kMultiplyDepth)) {
    waitCopies<kMultiplyStages - 2>();
    __syncthreads();  // this stage is there, and the one before it has been read
    constexpr int kAhead = kMultiplyDepth * (kMultiplyStages - 1);
    if (left > kAhead) {
      const uint32_t free = stage == 0 ? kMultiplyStages - 1 : stage - 1;
      copyA.next(tiles[free][0], a.m - firstRow, uint32_t(left - kAhead));
      copyB.next(tiles[free][1], a.n - firstColumn, uint32_t(left - kAhead));
    }
    commitCopies();
    const float *tileA = tiles[stage][0], *tileB = tiles[stage][1];
#pragma unroll 1
    for (uint32_t half = 0; half < 2; ++half) {
      uint32_t big[kColumnTiles][2], small[kColumnTiles][2];
#pragma unroll
      for (uint32_t n = 0; n < kColumnTiles; ++n) {
        const float2 pair = operandPair<kTile, kColumnsB>(tileB, warpColumn + 8 * n, half);
        const SplitTf32 first = splitTf32(pair.x), second = splitTf32(pair.y);
        big[n][0] = first.big, small[n][0] = first.small;
        big[n][1] = second.big, small[n][1] = second.small;
      }
#pragma unroll
      for (uint32_t m = 0; m < kRowTiles; ++m) {
        const float2 low = operandPair<kTile, kColumnsA>(tileA, warpRow + 16 * m, half);
        const float2 high = operandPair<kTile, kColumnsA>(tileA, warpRow + 16 * m + 8, half);
        const SplitTf32 parts[4] = {splitTf32(low.x), splitTf32(high.x), splitTf32(low.y), splitTf32(high.y)};
        const uint32_t bigA[4] = {parts[0].big, parts[1].big, parts[2].big, parts[3].big};
        const uint32_t smallA[4] = {parts[0].small, parts[1].small, parts[2].small, parts[3].small};
#pragma unroll
        for (uint32_t n = 0; n < kColumnTiles; n += 2) {  // two independent chains of products
          float products[2][4] = {};
#pragma unroll
          for (uint32_t i = 0; i < 2; ++i) multiplyTf32(products[i], smallA, big[n + i]);
#pragma unroll
          for (uint32_t i = 0; i < 2; ++i) multiplyTf32(products[i], bigA, small[n + i]);
#pragma unroll
          for (uint32_t i = 0; i < 2; ++i) multiplyTf32(products[i], bigA, big[n + i]);
#pragma unroll
          for (uint32_t i = 0; i < 8; ++i) sums[m][n + i / 4][i % 4] += products[i / 4][i % 4];
        }
      }
    }
    stage = stage + 1 == kMultiplyStages ? 0 : stage + 1;
  }

#pragma unroll
  for (uint32_t m = 0; m < kRowTiles; ++m)
#pragma unroll
    for (uint32_t n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 2; ++i) {
        const uint32_t row = firstRow + warpRow + 16 * m + 8 * i + g;
        const uint32_t column = firstColumn + warpColumn + 8 * n + 2 * t;
        if (row >= a.m || column >= a.n) continue;
        float* c = a.c + blockIdx.z * a.cApart + row * a.ldc + column;
        const float x = a.alpha * sums[m][n][2 * i], y = a.alpha * sums[m][n][2 * i + 1];
        if (a.pairs && column + 1 < a.n) {
          float2* pair = reinterpret_cast<float2*>(c);
          const float2 before = a.accumulate ? *pair : make_float2(0, 0);
          *pair = make_float2(before.x + x, before.y + y);
        } else {
          c[0] = a.accumulate ? c[0] + x : x;
          if (column + 1 < a.n) c[1] = a.accumulate ? c[1] + y : y;
        }
      }
}

}  // namespace slim::cuda

// Named by the tile, and whether A and B are row- or column-major. Two CTAs an SM of large tiles for XᵀX; the
// others would need some registers more than that leaves.
#define SLIM_MULTIPLY_KERNEL(tile, layouts, columnsA, columnsB, ctas)                    \
  extern "C" __global__ void __launch_bounds__(2 * tile, ctas)                           \
      multiply##tile##layouts(const __grid_constant__ slim::cuda::MultiplyArguments a) { \
    slim::cuda::multiplyTiles<tile, columnsA, columnsB>(a);                              \
  }
SLIM_MULTIPLY_KERNEL(128, RowRow, false, false, 1)
SLIM_MULTIPLY_KERNEL(128, RowColumn, false, true, 1)
SLIM_MULTIPLY_KERNEL(128, ColumnRow, true, false, 1)
SLIM_MULTIPLY_KERNEL(128, ColumnColumn, true, true, 2)
SLIM_MULTIPLY_KERNEL(64, RowRow, false, false, 4)
SLIM_MULTIPLY_KERNEL(64, RowColumn, false, true, 4)
SLIM_MULTIPLY_KERNEL(64, ColumnRow, true, false, 4)
SLIM_MULTIPLY_KERNEL(64, ColumnColumn, true, true, 4)
#undef SLIM_MULTIPLY_KERNEL
