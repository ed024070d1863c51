// Codes of one row of a group as weights: eight at a time, for eight codes of b bits are b whole bytes.
#pragma once
#include <array>
#include <cstddef>
#include <cstdint>

#include "cpu/features.h"

namespace slim {

/// scale · (code − offset); one bit: offset ± scale.
inline float decodeWeight(unsigned bits, unsigned code, float scale, float offset) {
  if (bits == 1) return offset + scale * float(2 * int(code) - 1);  // without a branch on random bits
  return scale * (float(code) - offset);
}

/// Eight codes of kBits bits. Put together in a register: a word stored in two pieces could not be loaded
/// back at once.
template <unsigned kBits>
inline uint64_t loadEight(const uint8_t* codes) {
  uint64_t word = 0;
  for (unsigned i = 0; i < kBits; ++i) word |= uint64_t(codes[i]) << (8 * i);
  return word;
}

/// 8 · eights codes from `codes` on; reads no byte past them.
using DecodeEights = void (*)(const uint8_t* codes, size_t eights, float scale, float offset, float* out);

/// Kernels by width: [bits], 1 … 8. All instruction sets give the same floats.
using DecodeKernels = std::array<DecodeEights, 9>;
const DecodeKernels& decodeKernels(InstructionSet set = activeInstructionSet());

extern const DecodeKernels kDecodePortable;  // the oracle
#if defined(__x86_64__)
extern const DecodeKernels kDecodeAvx2;
#endif

}  // namespace slim
