// Products with weights that are not packed. Sums are float32 in a fixed order, the same for a token whatever
// the others are.
#pragma once
#include "cuda/kernels/loads.cuh"

namespace slim::cuda {

/// Few tokens, or float32 weights: one warp two rows of W, up to kFewTokens tokens (blockIdx.y) at once. A
/// request of 4 elements a lane leaves no part of a sector of x or W unused.
template <typename Weight>
__device__ __forceinline__ void denseFew(const DenseProductArguments& a) {
  constexpr uint32_t kRows = kFewRows / 4;  // of a warp
  const uint32_t lane = threadIdx.x % 32, firstRow = blockIdx.x * kFewRows + threadIdx.x / 32 * kRows;
  if (firstRow >= a.rows) return;
  const uint32_t firstToken = blockIdx.y * kFewTokens, tokens = min(kFewTokens, a.tokens - firstToken);
  const float* x = a.x + firstToken * a.xStride;
  const Weight* weight[kRows];
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r)  // beyond the last row, the last one again
    weight[r] = static_cast<const Weight*>(a.weight) + uint64_t(min(firstRow + r, a.rows - 1)) * a.columns;
  float sums[kRows][kFewTokens] = {};
  if (a.vectors) {
#pragma unroll 2
    for (uint32_t k = 4 * lane; k < a.columns; k += 128) {
      float4 w[kRows];
#pragma unroll
      for (uint32_t r = 0; r < kRows; ++r) w[r] = loadFour(weight[r] + k);
#pragma unroll
      for (uint32_t t = 0; t < kFewTokens; ++t) {
        if (t >= tokens) continue;
        const float4 v = loadFour(x + t * a.xStride + k);
#pragma unroll
        for (uint32_t r = 0; r < kRows; ++r)
          sums[r][t] = fmaf(w[r].x, v.x, fmaf(w[r].y, v.y, fmaf(w[r].z, v.z, fmaf(w[r].w, v.w, sums[r][t]))));
      }
    }
  } else {
    for (uint32_t k = lane; k < a.columns; k += 32)
#pragma unroll
      for (uint32_t t = 0; t < kFewTokens; ++t) {
        if (t >= tokens) continue;
#pragma unroll
        for (uint32_t r = 0; r < kRows; ++r)
          sums[r][t] = fmaf(toFloat(weight[r][k]), x[t * a.xStride + k], sums[r][t]);
      }
  }
#pragma unroll
  for (uint32_t r = 0; r < kRows; ++r) {
    float mine = 0;  // lane t has token t's
#pragma unroll
    for (uint32_t t = 0; t < kFewTokens; ++t) {
      const float sum = warpSum(sums[r][t]);
      if (lane == t) mine = sum;
    }
    const uint32_t row = firstRow + r;
    if (lane >= tokens || row >= a.rows) continue;
    float* y = a.y + (firstToken + lane) * a.yStride + row;
    if (a.bias) mine += a.bias[row];
    *y = a.accumulate ? *y + mine : mine;
  }
}

constexpr int kDenseDepth = 32;
/// Words of a row of a tile: the 8 rows × 4 columns of a fragment lie in 32 banks.
constexpr int kDenseStride = kDenseDepth + 4;

__device__ __forceinline__ float roundToTf32(float x) {
  uint32_t rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return __uint_as_float(rounded);
}

/// c += a · b: 16 × 8 weights times 8 × 8 activations.
__device__ __forceinline__ void multiplyTf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

/// More tokens: 128 rows (blockIdx.x) × 64 tokens (blockIdx.y) on tensor cores. tf32 holds weights of either
/// 16-bit type exactly; activations are rounded to its 11 bits. Rows lie on 16-byte vectors.
template <typename Weight>
__device__ __forceinline__ void denseMany(const DenseProductArguments& a) {
  __shared__ __align__(16) float weights[kManyRows][kDenseStride], inputs[kManyTokens][kDenseStride];
  const uint32_t thread = threadIdx.x, lane = thread % 32, warp = thread / 32;
  const uint32_t firstRow = blockIdx.x * kManyRows, firstToken = blockIdx.y * kManyTokens;
  const Weight* weight = static_cast<const Weight*>(a.weight);
  const uint32_t warpRow = warp / 2 * 32, warpToken = warp % 2 * 32, g = lane / 4, t = lane % 4;
  float sums[2][4][4] = {};  // [16 rows][8 tokens]

  // What a thread brings of a tile: 8 weights of two rows, 4 inputs of two tokens.
  float nextWeights[2][8];
  float4 nextInputs[2];
  const auto load = [&](uint32_t start) {
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t place = thread + 256 * i;
      const uint32_t row = firstRow + place / 4, k = start + place % 4 * 8;
#pragma unroll
      for (int j = 0; j < 8; ++j) nextWeights[i][j] = 0;
      if (row < a.rows && k < a.columns) loadEight(weight + uint64_t(row) * a.columns + k, nextWeights[i]);
      const uint32_t token = firstToken + place / 8, column = start + place % 8 * 4;
      nextInputs[i] = make_float4(0, 0, 0, 0);
      if (token < a.tokens && column < a.columns)
        nextInputs[i] = *reinterpret_cast<const float4*>(a.x + token * a.xStride + column);
    }
  };
  load(0);
  for (uint32_t start = 0; start < a.columns; start += kDenseDepth) {
    __syncthreads();  // the last tile has been read
#pragma unroll
    for (uint32_t i = 0; i < 2; ++i) {
      const uint32_t place = thread + 256 * i;
      float* row = &weights[place / 4][place % 4 * 8];
      reinterpret_cast<float4*>(row)[0] =
          make_float4(nextWeights[i][0], nextWeights[i][1], nextWeights[i][2], nextWeights[i][3]);
      reinterpret_cast<float4*>(row)[1] =
          make_float4(nextWeights[i][4], nextWeights[i][5], nextWeights[i][6], nextWeights[i][7]);
      const float4 x = nextInputs[i];
      *reinterpret_cast<float4*>(&inputs[place / 8][place % 8 * 4]) =
          make_float4(roundToTf32(x.x), roundToTf32(x.y), roundToTf32(x.z), roundToTf32(x.w));
    }
    __syncthreads();
    if (start + kDenseDepth < a.columns) load(start + kDenseDepth);
#pragma unroll
    for (uint32_t k = 0; k < kDenseDepth; k += 8) {
      uint32_t left[2][4], right[4][2];
#pragma unroll
      for (uint32_t m = 0; m < 2; ++m) {
        const float* row = &weights[warpRow + 16 * m + g][k + t];
        left[m][0] = __float_as_uint(row[0]);
        left[m][1] = __float_as_uint(row[8 * kDenseStride]);
        left[m][2] = __float_as_uint(row[4]);
        left[m][3] = __float_as_uint(row[8 * kDenseStride + 4]);
      }
#pragma unroll
      for (uint32_t n = 0; n < 4; ++n) {
        const float* row = &inputs[warpToken + 8 * n + g][k + t];
        right[n][0] = __float_as_uint(row[0]);
        right[n][1] = __float_as_uint(row[4]);
      }
#pragma unroll
      for (uint32_t m = 0; m < 2; ++m)
#pragma unroll
        for (uint32_t n = 0; n < 4; ++n) multiplyTf32(sums[m][n], left[m], right[n]);
    }
  }
#pragma unroll
  for (uint32_t m = 0; m < 2; ++m)
#pragma unroll
    for (uint32_t n = 0; n < 4; ++n)
#pragma unroll
      for (uint32_t i = 0; i < 4; ++i) {
        const uint32_t row = firstRow + warpRow + 16 * m + 8 * (i / 2) + g;
        const uint32_t token = firstToken + warpToken + 8 * n + 2 * t + i % 2;
        if (row >= a.rows || token >= a.tokens) continue;
        float* y = a.y + token * a.yStride + row;
        float sum = sums[m][n][i];
        if (a.bias) sum += a.bias[row];
        *y = a.accumulate ? *y + sum : sum;
      }
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(128)
    denseFewF32(const __grid_constant__ slim::cuda::DenseProductArguments a) {
  slim::cuda::denseFew<float>(a);
}
extern "C" __global__ void __launch_bounds__(128)
    denseFewF16(const __grid_constant__ slim::cuda::DenseProductArguments a) {
  slim::cuda::denseFew<__half>(a);
}
extern "C" __global__ void __launch_bounds__(128)
    denseFewBF16(const __grid_constant__ slim::cuda::DenseProductArguments a) {
  slim::cuda::denseFew<__nv_bfloat16>(a);
}

extern "C" __global__ void __launch_bounds__(256)
    denseManyF16(const __grid_constant__ slim::cuda::DenseProductArguments a) {
  slim::cuda::denseMany<__half>(a);
}
extern "C" __global__ void __launch_bounds__(256)
    denseManyBF16(const __grid_constant__ slim::cuda::DenseProductArguments a) {
  slim::cuda::denseMany<__nv_bfloat16>(a);
}
