#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/polynomials.h"
#include "decoder/kernels.h"
#include "decoder/key_values.h"
#include "quant/refinement.h"
#include "quant/scale_search.h"
#include "quant/softmax_divergence.h"
#include "quant/wide_scale_search.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
namespace slim {
namespace {

constexpr size_t kVectorLanes = 8;
// 12 accumulators, 2 vectors of B and a broadcast: 15 of 16 registers.
constexpr size_t kRegisterRows = 6, kRegisterVectors = 2;
typedef float Vector __attribute__((vector_size(32)));
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }
inline Vector load(const uint16_t* halves) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves)));
}
inline Vector load(const int8_t* p) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
}

#include "cpu/attention_tile.inl"
#include "cpu/cached_attention.inl"

inline Vector exponent(Vector x) { return __builtin_convertvector((IntVector(x) >> 23) - 127, Vector); }
inline Vector mantissa(Vector x) { return Vector((IntVector(x) & 0x7fffff) | 0x3f800000); }

#include "cpu/refinement.inl"
#include "cpu/scale_search.inl"
#include "cpu/wide_scale_search.inl"

}  // namespace

extern const DecoderKernels kAvx2Kernels;
const DecoderKernels kAvx2Kernels = {mapInPlace<exp>,
                                     mapInPlace<tanh>,
                                     mapInPlace<silu>,
                                     mapInPlace<gelu>,
                                     mapInPlace<geluTanh>,
                                     maximum,
                                     sumExp,
                                     sumExpDifference,
                                     attend,
                                     attendPages,
                                     mapInPlace<siluGradient>,
                                     mapInPlace<geluGradient>,
                                     mapInPlace<geluTanhGradient>};
const SoftmaxKernels kSoftmaxAvx2 = {logProbabilities, divergence};
const ScaleSearch kScaleSearchAvx2 = searchScale;
const WideScaleSearch kWideScaleSearchAvx2 = searchWideScale;
const RefinementKernels kRefinementAvx2 = {multiplyLevels, descendCodes};

}  // namespace slim
#pragma GCC pop_options
#endif
