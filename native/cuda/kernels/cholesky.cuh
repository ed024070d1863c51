// A = P Pᵀ with P upper triangular, and P⁻¹, block by block from the last column on (quant/cholesky.h).
// Diagonal blocks and what they are divided into are float64: what is left of an ill-conditioned matrix after
// the updates is small. All else is done by multiply….
#pragma once
#include "cuda/kernels/linear_algebra_arguments.h"

namespace slim::cuda {

constexpr uint32_t kFactorThreads = 256;
constexpr uint32_t kFactorSquare = kFactorBlock * kFactorBlock;

/// Solves P x = b for 8 lanes' b: lane l has the elements l, l + 8, …; `columns` is P by columns, `inverses`
/// of its diagonal.
__device__ __forceinline__ void solveUpper(const double* columns, const double* inverses,
                                           double (&x)[kFactorBlock / 8]) {
  const uint32_t lane = threadIdx.x % 8;
#pragma unroll
  for (int piece = kFactorBlock / 8 - 1; piece >= 0; --piece)
#pragma unroll 1
    for (int owner = 7; owner >= 0; --owner) {
      const uint32_t j = 8 * piece + owner;
      const double solved = __shfl_sync(0xffffffffu, x[piece], owner, 8) * inverses[j];
      const double* column = columns + j * kFactorBlock + lane;
      if (lane == owner) x[piece] = solved;
      if (lane < owner) x[piece] -= column[8 * piece] * solved;
#pragma unroll
      for (int i = 0; i < piece; ++i) x[i] -= column[8 * i] * solved;
    }
}

}  // namespace slim::cuda

/// One CTA a row.
extern "C" __global__ void __launch_bounds__(256)
    dampUpper(const __grid_constant__ slim::cuda::DampArguments args) {
  const uint32_t row = blockIdx.x;
  const float* h = args.h + uint64_t(row) * args.n;
  float* a = args.a + uint64_t(row) * args.n;
  for (uint32_t j = threadIdx.x; j < args.n; j += 256) {
    float value = 0;
    if (j > row) value = args.scale * h[j];
    if (j == row) value = float((h[j] == 0 ? 1.0 : double(args.scale * h[j])) + args.added);
    a[j] = value;
  }
}

/// One CTA a row. Products write whole tiles, also below the diagonal.
extern "C" __global__ void __launch_bounds__(256)
    clearLower(const __grid_constant__ slim::cuda::FactorArguments args) {
  float* a = args.a + uint64_t(blockIdx.x) * args.n;
  for (uint32_t j = threadIdx.x; j < blockIdx.x; j += 256) a[j] = 0;
}

/// One CTA: the diagonal block. The columns are scaled by 1 / √pivot at the end alone, so that a step is one
/// barrier.
extern "C" __global__ void __launch_bounds__(slim::cuda::kFactorThreads)
    factorDiagonal(const __grid_constant__ slim::cuda::FactorArguments args) {
  using namespace slim::cuda;
  __shared__ double at[kFactorBlock][kFactorBlock + 1];
  if (*args.failed) return;
  float* a = args.a + uint64_t(args.begin) * args.n + args.begin;
  for (uint32_t place = threadIdx.x; place < kFactorSquare; place += kFactorThreads) {
    const uint32_t i = place / kFactorBlock, j = place % kFactorBlock;
    at[i][j] = i <= j && j < args.size ? a[uint64_t(i) * args.n + j] : 0;
  }
  __syncthreads();
  for (uint32_t j = args.size; j-- > 0;) {
    const double pivot = at[j][j];
    if (!(pivot > 0 && pivot < __longlong_as_double(0x7ff0000000000000))) {  // the same for all threads
      if (threadIdx.x == 0) *args.failed = 1;
      return;
    }
    const double inverse = 1 / pivot;
    for (uint32_t i = threadIdx.x / 16; i < j; i += 16) {
      const double factor = at[i][j] * inverse;
      for (uint32_t k = threadIdx.x % 16; k < j; k += 16)
        if (k >= i) at[i][k] -= factor * at[k][j];
    }
    __syncthreads();
  }
  for (uint32_t place = threadIdx.x; place < kFactorSquare; place += kFactorThreads) {
    const uint32_t i = place / kFactorBlock, j = place % kFactorBlock;
    if (i > j || j >= args.size) continue;
    const double root = sqrt(at[j][j]);
    a[uint64_t(i) * args.n + j] = float(i == j ? root : at[i][j] / root);
  }
  for (uint32_t place = threadIdx.x; place < kFactorSquare; place += kFactorThreads) {
    const uint32_t j = place / kFactorBlock, i = place % kFactorBlock;
    const double root = sqrt(at[j][j]);
    args.block[place] = i < j ? at[i][j] / root : i == j ? root : 0;
  }
}

/// The rows above a block: X Pᵀ = A. One CTA kPanelRows rows, 8 lanes a row. The block is a whole one: there
/// is none above the first.
extern "C" __global__ void __launch_bounds__(slim::cuda::kFactorThreads)
    solvePanel(const __grid_constant__ slim::cuda::FactorArguments args) {
  using namespace slim::cuda;
  __shared__ double columns[kFactorSquare], inverses[kFactorBlock];
  if (*args.failed) return;
  for (uint32_t place = threadIdx.x; place < kFactorSquare; place += kFactorThreads)
    columns[place] = args.block[place];
  if (threadIdx.x < kFactorBlock) inverses[threadIdx.x] = 1 / args.block[threadIdx.x * (kFactorBlock + 1)];
  __syncthreads();
  const uint32_t row = blockIdx.x * kPanelRows + threadIdx.x / 8;
  const bool valid = row < args.begin;
  float* a = args.a + uint64_t(row) * args.n + args.begin + threadIdx.x % 8;
  double x[kFactorBlock / 8];
#pragma unroll
  for (int i = 0; i < int(kFactorBlock / 8); ++i) x[i] = valid ? a[8 * i] : 0;
  solveUpper(columns, inverses, x);
  if (!valid) return;
#pragma unroll
  for (int i = 0; i < int(kFactorBlock / 8); ++i) a[8 * i] = float(x[i]);
}

/// One CTA a diagonal block (blockIdx.x from the last one on): P⁻¹, 8 lanes a column.
extern "C" __global__ void __launch_bounds__(slim::cuda::kFactorThreads)
    invertDiagonals(const __grid_constant__ slim::cuda::InvertArguments args) {
  using namespace slim::cuda;
  __shared__ double columns[kFactorSquare], inverses[kFactorBlock];
  const uint32_t end = args.n - blockIdx.x * kFactorBlock;
  const uint32_t begin = end > kFactorBlock ? end - kFactorBlock : 0, size = end - begin;
  float* a = args.a + uint64_t(begin) * args.n + begin;
  for (uint32_t place = threadIdx.x; place < kFactorSquare; place += kFactorThreads) {
    const uint32_t i = place / kFactorBlock, j = place % kFactorBlock;
    // Beyond a shorter block, the identity.
    columns[j * kFactorBlock + i] = j >= size ? i == j : i <= j ? a[uint64_t(i) * args.n + j] : 0;
  }
  __syncthreads();
  if (threadIdx.x < kFactorBlock) inverses[threadIdx.x] = 1 / columns[threadIdx.x * (kFactorBlock + 1)];
  __syncthreads();
  double* out = args.inverses + uint64_t(blockIdx.x) * kFactorSquare;
  for (uint32_t column = threadIdx.x / 8; column < kFactorBlock; column += kFactorThreads / 8) {
    double x[kFactorBlock / 8];
#pragma unroll
    for (int i = 0; i < int(kFactorBlock / 8); ++i) x[i] = 8 * i + threadIdx.x % 8 == column;
    solveUpper(columns, inverses, x);
#pragma unroll
    for (int i = 0; i < int(kFactorBlock / 8); ++i) {
      const uint32_t row = 8 * i + threadIdx.x % 8;
      out[column * kFactorBlock + row] = x[i];
      if (row <= column && column < size) a[uint64_t(row) * args.n + column] = float(x[i]);
    }
  }
}

/// Right of a diagonal block: U = −P_bb⁻¹ · (P_b,rest · U_rest). One CTA kPanelRows columns.
extern "C" __global__ void __launch_bounds__(slim::cuda::kFactorThreads)
    finishInverse(const __grid_constant__ slim::cuda::InvertArguments args) {
  using namespace slim::cuda;
  __shared__ double columns[kFactorSquare];
  __shared__ float products[kFactorBlock][kPanelRows];
  const uint32_t x = threadIdx.x % kPanelRows, y = threadIdx.x / kPanelRows;
  const uint32_t column = blockIdx.x * kPanelRows + x;
  constexpr uint32_t kRows = kFactorThreads / kPanelRows;
  for (uint32_t place = threadIdx.x; place < kFactorSquare; place += kFactorThreads)
    columns[place] = args.inverses[place];
  for (uint32_t k = y; k < kFactorBlock; k += kRows)
    products[k][x] = k < args.size && column < args.rest ? args.product[uint64_t(k) * args.rest + column] : 0;
  __syncthreads();
  double sums[kFactorBlock / kRows] = {};
#pragma unroll 4
  for (uint32_t k = 0; k < kFactorBlock; ++k) {
    const double product = products[k][x];
#pragma unroll
    for (uint32_t i = 0; i < kFactorBlock / kRows; ++i)
      sums[i] -= columns[k * kFactorBlock + y + kRows * i] * product;
  }
  if (column >= args.rest) return;
#pragma unroll
  for (uint32_t i = 0; i < kFactorBlock / kRows; ++i) {
    const uint32_t row = y + kRows * i;
    if (row < args.size)
      args.a[uint64_t(args.begin + row) * args.n + args.begin + args.size + column] = float(sums[i]);
  }
}
