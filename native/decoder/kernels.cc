#include "decoder/kernels.h"

namespace slim {

extern const DecoderKernels kPortableKernels;  // kernels_portable.cc
#if defined(__x86_64__)
extern const DecoderKernels kAvx2Kernels;    // kernels_avx2.cc
extern const DecoderKernels kAvx512Kernels;  // kernels_avx512.cc
#endif

const std::vector<const DecoderKernels*>& allDecoderKernels() {
  static const auto* kernels = [] {
    auto* list = new std::vector<const DecoderKernels*>();
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq"))
      list->push_back(&kAvx512Kernels);
    if (avx2) list->push_back(&kAvx2Kernels);
#endif
    list->push_back(&kPortableKernels);
    return list;
  }();
  return *kernels;
}

}  // namespace slim
