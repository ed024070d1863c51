// Codes of a whole matrix, group by group, with GPTQ's compensation or without (quant/gptq.h); and their
// canonical layout (docs/format.md).
#pragma once
#include "cuda/kernels/group_fit.cuh"
#include "cuda/kernels/quantization_arguments.h"

namespace slim::cuda {

/// A warp fits and quantizes one row of one group of up to 32 · kRegisters columns; lane l holds columns l, l
/// + 32, …. With U, column after column: e_j = (w_j − q_j) / U_jj, then w_i −= e_j · U_ji for the columns i >
/// j of the group. U's diagonal block passes through shared memory 32 rows at a time, for all warps.
template <int kRegisters>
__device__ __forceinline__ void quantizeGroup(const QuantizeGroupsArguments& a) {
  constexpr int kWidth = 32 * kRegisters, kWarps = kQuantizedRows;
  __shared__ __align__(16) float weights[kWarps][kWidth], costs[kWidth], block[32][kWidth];
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const uint32_t group = a.firstGroup + blockIdx.x, begin = group * a.groupSize;
  const uint32_t row = blockIdx.y * kQuantizedRows + warp;
  const int width = int(min(a.groupSize, a.cols - begin)), bits = a.groupBits[group];
  const auto quantizer = Quantizer(a.quantizer);
  const bool inside = row < a.rows;
  const uint64_t at = uint64_t(row) * a.cols + begin;

  if (quantizer == Quantizer::Wide)
    for (int j = threadIdx.x; j < width; j += 32 * kWarps) costs[j] = a.h ? a.h[begin + j] : 1.0f;
  float w[kRegisters] = {};
#pragma unroll
  for (int i = 0; i < kRegisters; ++i)
    if (const int j = 32 * i + lane; inside && j < width) weights[warp][j] = w[i] = a.w[at + j];
  __syncthreads();

  RowFit fit{};
  if (inside) {
    fit = roundToStored(fitRow(quantizer, bits, {weights[warp], costs, width}), bits);
    if (lane == 0) {
      const uint64_t index = uint64_t(group) * a.rows + row;
      a.scales[index] = __half_as_ushort(__float2half_rn(fit.scale));
      a.means[index] = bits == 1 ? __half_as_ushort(__float2half_rn(fit.offset)) : uint16_t(0);
      a.zeros[index] = bits == 1 ? uint8_t(0) : uint8_t(fit.offset);
    }
  }
  if (!a.upper) {
#pragma unroll
    for (int i = 0; i < kRegisters; ++i)
      if (const int j = 32 * i + lane; inside && j < width)
        a.codes[at + j] = uint8_t(quantize(w[i], fit, bits).code);
    return;
  }

#pragma unroll
  for (int i = 0; i < kRegisters; ++i) {
    const int first = 32 * i, columns = min(32, width - first);
    if (columns <= 0) return;
    if (i > 0) __syncthreads();  // the rows before are done with
    for (int j = warp; j < columns; j += kWarps) {
      const float* u = a.upper + uint64_t(begin + first + j) * a.cols + begin;
      for (int k = first + lane; k < kWidth; k += 32) block[j][k] = k < width ? u[k] : 0.0f;
    }
    __syncthreads();
    if (!inside) continue;
    float error = 0;
    uint32_t code = 0;
    for (int j = 0; j < columns; ++j) {
      const float wj = __shfl_sync(kWarp, w[i], j);
      const QuantizedWeight quantized = quantize(wj, fit, bits);
      const float e = (wj - quantized.value) / block[j][first + j];
      if (lane == j) error = e, code = quantized.code;
#pragma unroll
      for (int k = i; k < kRegisters; ++k)  // columns up to j change, too: nothing reads them any more
        w[k] = fmaf(-e, block[j][32 * k + lane], w[k]);
    }
    if (lane < columns) {
      a.codes[at + first + lane] = uint8_t(code);
      a.errors[row * a.errorStride + first + lane] = error;
    }
  }
}

/// Byte `index` of the little-endian bit string of `count` values of b bits.
__device__ __forceinline__ uint8_t packedByte(const uint8_t* values, uint32_t count, uint32_t bits,
                                              uint32_t index) {
  const uint32_t first = 8 * index / bits, shift = 8 * index - first * bits;
  uint32_t word = 0;
  for (uint32_t i = 0; i * bits < 8 + shift && first + i < count; ++i)
    word |= uint32_t(values[first + i]) << (i * bits);
  return uint8_t(word >> shift);
}

}  // namespace slim::cuda

#define SLIM_QUANTIZE_GROUPS(columns)                                                          \
  extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kQuantizedRows, 3)             \
      quantizeGroups##columns(const __grid_constant__ slim::cuda::QuantizeGroupsArguments a) { \
    slim::cuda::quantizeGroup<columns / 32>(a);                                                \
  }
SLIM_QUANTIZE_GROUPS(32)
SLIM_QUANTIZE_GROUPS(64)
SLIM_QUANTIZE_GROUPS(128)
SLIM_QUANTIZE_GROUPS(256)
#undef SLIM_QUANTIZE_GROUPS

/// A thread takes one column (blockIdx.x) of eight rows (blockIdx.y), whose scales lie side by side.
extern "C" __global__ void __launch_bounds__(256)
    dequantizeGroups(const __grid_constant__ slim::cuda::DequantizeGroupsArguments a) {
  using namespace slim::cuda;
  const uint32_t column = blockIdx.x * 256 + threadIdx.x, firstRow = blockIdx.y * kQuantizedRows;
  if (column >= a.cols) return;
  const uint32_t group = column / a.groupSize;
  const bool oneBit = a.groupBits[group] == 1;
  for (uint32_t row = firstRow; row < min(a.rows, firstRow + kQuantizedRows); ++row) {
    const uint64_t index = uint64_t(group) * a.rows + row, at = uint64_t(row) * a.cols + column;
    const float code = a.codes[at], scale = __half2float(__ushort_as_half(a.scales[index]));
    a.w[at] = oneBit ? __half2float(__ushort_as_half(a.means[index])) + (code > 0 ? scale : -scale)
                     : scale * (code - float(a.zeros[index]));
  }
}

/// A warp writes the bit string of one row (blockIdx.y) of a group (blockIdx.x).
extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kQuantizedRows)
    packCodes(const __grid_constant__ slim::cuda::PackGroupsArguments a) {
  using namespace slim::cuda;
  const uint32_t group = blockIdx.x, row = blockIdx.y * kQuantizedRows + threadIdx.x / 32;
  if (row >= a.rows) return;
  const uint32_t begin = group * a.groupSize, width = min(a.groupSize, a.cols - begin);
  const uint32_t bits = a.groupBits[group], bytes = (width * bits + 7) / 8;
  const uint8_t* codes = a.codes + uint64_t(row) * a.cols + begin;
  uint8_t* string = a.qweight + a.codeOffsets[group] + uint64_t(row) * bytes;
  for (uint32_t i = threadIdx.x % 32; i < bytes; i += 32) string[i] = packedByte(codes, width, bits, i);
}

/// A thread writes one byte of the bit string of a group's (blockIdx.x) zero points, or of its means.
extern "C" __global__ void __launch_bounds__(256)
    packZeros(const __grid_constant__ slim::cuda::PackGroupsArguments a) {
  using namespace slim::cuda;
  const uint32_t group = blockIdx.x, index = blockIdx.y * 256 + threadIdx.x, bits = a.groupBits[group];
  const uint64_t first = uint64_t(group) * a.rows;
  uint8_t* string = a.qzeros + a.zeroOffsets[group];
  if (bits == 1) {
    if (index < 2 * a.rows) string[index] = uint8_t(a.means[first + index / 2] >> (index % 2 * 8));
  } else if (index < (uint64_t(a.rows) * bits + 7) / 8) {
    string[index] = packedByte(a.zeros + first, a.rows, bits, index);
  }
}
