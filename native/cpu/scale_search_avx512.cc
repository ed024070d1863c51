// The search of SQC for sixteen rows in the lanes of AVX-512 registers; its oracle is quant/scale_search.cc.
#if defined(__x86_64__)
#include <cmath>

#include "quant/scale_search.h"

#pragma GCC push_options
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // of GCC 12's own avx512fintrin.h (GCC bug 105593)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#include "cpu/vector_math_avx512.h"

namespace slim {

void searchScaleAvx512(const float* weights, size_t width, const float* lo, const float* hi, int maxCode,
                       float* scale, float* zero) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  const __m512 low = _mm512_loadu_ps(lo), high = _mm512_loadu_ps(hi),
               maximum = _mm512_set1_ps(float(maxCode));
  const __m512 signBit = _mm512_set1_ps(-0.0f);
  __m512 least = _mm512_set1_ps(HUGE_VALF), bestScale{}, bestZero{};
  for (const float factor : searchFactors()) {
    const __m512 p = _mm512_set1_ps(factor);
    const __m512 pLow = _mm512_mul_ps(p, low);
    const __m512 s = _mm512_div_ps(_mm512_sub_ps(_mm512_mul_ps(p, high), pLow), maximum);
    const __m512 lowest = _mm512_roundscale_ps(_mm512_div_ps(pLow, s), kNearest);  // −zero
    const __m512 highest = _mm512_add_ps(maximum, lowest);
    const __m512 inverse = _mm512_div_ps(_mm512_set1_ps(1), s);
    __m512 loss = _mm512_setzero_ps();
    for (size_t j = 0; j < width; ++j) {
      const __m512 w = _mm512_loadu_ps(weights + j * kLanes);
      __m512 level = _mm512_roundscale_ps(_mm512_mul_ps(w, inverse), kNearest);
      level = _mm512_min_ps(_mm512_max_ps(level, lowest), highest);
      loss = _mm512_add_ps(loss, powSearchNorm512(_mm512_fmsub_ps(level, s, w)));
    }
    const __mmask16 better = factor == 1 ? __mmask16(0xffff) : _mm512_cmp_ps_mask(loss, least, _CMP_LT_OQ);
    least = _mm512_mask_mov_ps(least, better, loss);
    bestScale = _mm512_mask_mov_ps(bestScale, better, s);
    bestZero = _mm512_mask_mov_ps(bestZero, better, _mm512_xor_ps(lowest, signBit));
  }
  _mm512_storeu_ps(scale, bestScale);
  _mm512_storeu_ps(zero, bestZero);
}

}  // namespace slim
#pragma GCC diagnostic pop
#pragma GCC pop_options
#endif
