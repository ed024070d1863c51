#include "decoder/kernels.h"

#include "cpu/features.h"

namespace slim {

extern const DecoderKernels kPortableKernels;  // cpu/vector_kernels_portable.cc
#if defined(__x86_64__)
extern const DecoderKernels kAvx2Kernels;    // cpu/vector_kernels_avx2.cc
extern const DecoderKernels kAvx512Kernels;  // cpu/vector_kernels_avx512.cc
#endif

const DecoderKernels& decoderKernels() {
#if defined(__x86_64__)
  switch (activeInstructionSet()) {
    case InstructionSet::Avx512:
      return kAvx512Kernels;
    case InstructionSet::Avx2:
      return kAvx2Kernels;
    default:
      break;
  }
#endif
  return kPortableKernels;
}

}  // namespace slim
