#include "quant/packed_decode.h"

namespace slim {
namespace {

template <unsigned kBits>
void decodeEights(const uint8_t* codes, size_t eights, float scale, float offset, float* out) {
  for (size_t e = 0; e < eights; ++e, codes += kBits, out += 8) {
    const uint64_t word = loadEight<kBits>(codes);
    for (unsigned i = 0; i < 8; ++i)
      out[i] = decodeWeight(kBits, unsigned(word >> (i * kBits)) & ((1u << kBits) - 1), scale, offset);
  }
}

}  // namespace

const DecodeKernels kDecodePortable = {nullptr,         decodeEights<1>, decodeEights<2>,
                                       decodeEights<3>, decodeEights<4>, decodeEights<5>,
                                       decodeEights<6>, decodeEights<7>, decodeEights<8>};

const DecodeKernels& decodeKernels(InstructionSet set) {
#if defined(__x86_64__)
  if (set != InstructionSet::Portable) return kDecodeAvx2;
#endif
  (void)set;
  return kDecodePortable;
}

}  // namespace slim
