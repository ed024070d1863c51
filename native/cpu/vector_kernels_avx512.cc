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
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // of GCC 12's own avx512fintrin.h (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx2,fma,avx512f,avx512dq")
namespace slim {
namespace {

constexpr size_t kVectorLanes = 16;
// 24 accumulators, 4 vectors of B and a broadcast: 29 of 32 registers.
constexpr size_t kRegisterRows = 6, kRegisterVectors = 4;
typedef float Vector __attribute__((vector_size(64)));
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }
inline Vector load(const uint16_t* halves) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)));
}
inline Vector load(const int8_t* p) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
}

#include "cpu/attention_tile.inl"
#include "cpu/cached_attention.inl"

inline Vector exponent(Vector x) { return _mm512_getexp_ps(x); }
inline Vector mantissa(Vector x) { return _mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src); }

#include "cpu/refinement.inl"
#include "cpu/scale_search.inl"
#include "cpu/wide_scale_search.inl"

}  // namespace

extern const DecoderKernels kAvx512Kernels;
const DecoderKernels kAvx512Kernels = {mapInPlace<exp>,
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
const SoftmaxKernels kSoftmaxAvx512 = {logProbabilities, divergence};
const ScaleSearch kScaleSearchAvx512 = searchScale;
const WideScaleSearch kWideScaleSearchAvx512 = searchWideScale;
const RefinementKernels kRefinementAvx512 = {multiplyLevels, descendCodes};

}  // namespace slim
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
