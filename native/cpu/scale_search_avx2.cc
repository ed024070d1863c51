// The search of SQC for sixteen rows, eight at a time in the lanes of AVX2 registers; its oracle is
// quant/scale_search.cc.
#if defined(__x86_64__)
#include <cmath>

#include "quant/scale_search.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "cpu/vector_math_avx2.h"

namespace slim {

void searchScaleAvx2(const float* weights, size_t width, const float* lo, const float* hi, int maxCode,
                     float* scale, float* zero) {
  for (size_t half = 0; half < kLanes; half += 8) {
    const __m256 low = _mm256_loadu_ps(lo + half), high = _mm256_loadu_ps(hi + half);
    const __m256 maximum = _mm256_set1_ps(float(maxCode)), signBit = _mm256_set1_ps(-0.0f);
    __m256 least = _mm256_set1_ps(HUGE_VALF), bestScale{}, bestZero{};
    for (const float factor : searchFactors()) {
      const __m256 p = _mm256_set1_ps(factor);
      const __m256 pLow = _mm256_mul_ps(p, low);
      const __m256 s = _mm256_div_ps(_mm256_sub_ps(_mm256_mul_ps(p, high), pLow), maximum);
      const __m256 lowest = _mm256_round_ps(_mm256_div_ps(pLow, s), kNearest256);  // −zero
      const __m256 highest = _mm256_add_ps(maximum, lowest);
      const __m256 inverse = _mm256_div_ps(_mm256_set1_ps(1), s);
      __m256 loss = _mm256_setzero_ps();
      for (size_t j = 0; j < width; ++j) {
        const __m256 w = _mm256_loadu_ps(weights + j * kLanes + half);
        __m256 level = _mm256_round_ps(_mm256_mul_ps(w, inverse), kNearest256);
        level = _mm256_min_ps(_mm256_max_ps(level, lowest), highest);
        loss = _mm256_add_ps(loss, powSearchNorm256(_mm256_fmsub_ps(level, s, w)));
      }
      __m256 better = _mm256_cmp_ps(loss, least, _CMP_LT_OQ);
      if (factor == 1) better = _mm256_castsi256_ps(_mm256_set1_epi32(-1));
      least = _mm256_blendv_ps(least, loss, better);
      bestScale = _mm256_blendv_ps(bestScale, s, better);
      bestZero = _mm256_blendv_ps(bestZero, _mm256_xor_ps(lowest, signBit), better);
    }
    _mm256_storeu_ps(scale + half, bestScale);
    _mm256_storeu_ps(zero + half, bestZero);
  }
}

}  // namespace slim
#pragma GCC pop_options
#endif
