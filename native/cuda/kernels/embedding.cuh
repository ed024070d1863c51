// Token ids to the states before the first block; one CTA a row.
#pragma once
#include "cuda/kernels/loads.cuh"

namespace slim::cuda {

/// The scaled embedding of column `i`, with the learned position's.
__device__ __forceinline__ void storeState(const EmbedArguments& a, uint32_t i, float value) {
  const uint64_t row = blockIdx.x;
  value *= a.scale;
  if (a.positionTable)
    value += loadElement(a.positionTable, uint64_t(a.positions[row] + a.positionOffset) * a.hidden + i,
                         a.positionType);
  a.states[row * a.hidden + i] = value;
}

/// `bits` bits from bit `at` of a little-endian string on.
__device__ __forceinline__ uint32_t readBits(const uint8_t* string, uint64_t at, uint32_t bits) {
  const uint64_t byte = at / 8;
  const uint32_t shift = at % 8;
  uint32_t window = string[byte];
  if (shift + bits > 8) window |= uint32_t(string[byte + 1]) << 8;
  return window >> shift & ((1u << bits) - 1);
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(256)
    embedRows(const __grid_constant__ slim::cuda::EmbedArguments a) {
  using namespace slim::cuda;
  const uint64_t from = uint64_t(a.ids[blockIdx.x]) * a.hidden;
  for (uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x)
    storeState(a, i, loadElement(a.table, from + i, a.tableType));
}

/// weight = scale · (code − zero), 1 bit: mean + scale · (code ? 1 : −1).
extern "C" __global__ void __launch_bounds__(256)
    embedPackedRows(const __grid_constant__ slim::cuda::EmbedPackedArguments p) {
  using namespace slim::cuda;
  const EmbedArguments& a = p.embed;
  const uint32_t id = uint32_t(a.ids[blockIdx.x]);
  for (uint32_t i = threadIdx.x; i < a.hidden; i += blockDim.x) {
    const uint32_t group = i / p.groupSize, begin = group * p.groupSize, bits = p.groupBits[group];
    const uint32_t width = min(p.groupSize, a.hidden - begin);
    const uint8_t* codes =
        static_cast<const uint8_t*>(a.table) + p.codeOffsets[group] + uint64_t(id) * ((width * bits + 7) / 8);
    const uint32_t code = readBits(codes, uint64_t(i - begin) * bits, bits);
    const float scale = __half2float(static_cast<const __half*>(p.scales)[uint64_t(group) * p.vocab + id]);
    const uint8_t* zeros = p.zeros + p.zeroOffsets[group];
    if (bits == 1) {
      // A group of means may begin at an odd byte.
      const uint32_t mean = zeros[2 * uint64_t(id)] | uint32_t(zeros[2 * uint64_t(id) + 1]) << 8;
      storeState(a, i, __half2float(__ushort_as_half(uint16_t(mean))) + (code ? scale : -scale));
    } else {
      storeState(a, i, scale * (float(code) - float(readBits(zeros, uint64_t(id) * bits, bits))));
    }
  }
}
