// Softmax KL with AVX-512; its oracle is quant/softmax_divergence.cc. Sums are kept in float64 lanes.
#if defined(__x86_64__)
#include <cmath>

#include "quant/softmax_divergence.h"

#pragma GCC push_options
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // of GCC 12's own avx512fintrin.h (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "cpu/vector_math_avx512.h"

namespace slim {
namespace {

inline __mmask16 laneMask(size_t left) {
  return left >= 16 ? __mmask16(0xffff) : __mmask16((1u << left) - 1);
}

inline __m512d addFloats(__m512d sum, __m512 x) {
  sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_castps512_ps256(x)));
  return _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)));
}

float logSum(const float* y, size_t n) {
  __m512 greatest = _mm512_set1_ps(-HUGE_VALF);
  for (size_t i = 0; i < n; i += 16)
    greatest = _mm512_max_ps(greatest, _mm512_mask_loadu_ps(greatest, laneMask(n - i), y + i));
  const float maximum = _mm512_reduce_max_ps(greatest);
  const __m512 shift = _mm512_set1_ps(maximum);
  __m512d sum = _mm512_setzero_pd();
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = laneMask(n - i);
    sum = addFloats(
        sum, _mm512_maskz_mov_ps(mask, exp512(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, y + i), shift))));
  }
  return maximum + float(std::log(_mm512_reduce_add_pd(sum)));
}

void logProbabilities(const float* y, size_t n, float* out) {
  const __m512 normalizer = _mm512_set1_ps(logSum(y, n)), least = _mm512_set1_ps(kLogLeastProbability);
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = laneMask(n - i);
    const __m512 log = _mm512_max_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, y + i), normalizer), least);
    _mm512_mask_storeu_ps(out + i, mask, log);
  }
}

double divergence(const float* y, const float* reference, size_t n) {
  const __m512 normalizer = _mm512_set1_ps(logSum(y, n)), least = _mm512_set1_ps(kLogLeastProbability);
  __m512d sum = _mm512_setzero_pd();
  for (size_t i = 0; i < n; i += 16) {
    const __mmask16 mask = laneMask(n - i);
    const __m512 log = _mm512_max_ps(_mm512_sub_ps(_mm512_maskz_loadu_ps(mask, y + i), normalizer), least);
    const __m512 difference = _mm512_sub_ps(log, _mm512_maskz_loadu_ps(mask, reference + i));
    sum = addFloats(sum, _mm512_maskz_mul_ps(mask, exp512(log), difference));
  }
  return _mm512_reduce_add_pd(sum);
}

}  // namespace

const SoftmaxKernels kSoftmaxAvx512 = {logProbabilities, divergence};

}  // namespace slim
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
