// Softmax KL with AVX2; its oracle is quant/softmax_divergence.cc. Sums are kept in float64 lanes.
#if defined(__x86_64__)
#include <cmath>

#include "quant/softmax_divergence.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#include "cpu/vector_math_avx2.h"

namespace slim {
namespace {

constexpr int kMasks[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};

inline __m256i laneMask(size_t left) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(kMasks + 8 - (left < 8 ? left : 8)));
}

inline __m256d addFloats(__m256d sum, __m256 x) {
  sum = _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_castps256_ps128(x)));
  return _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_extractf128_ps(x, 1)));
}

inline double total(__m256d sum) {
  double lanes[4];
  _mm256_storeu_pd(lanes, sum);
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

float logSum(const float* y, size_t n) {
  __m256 greatest = _mm256_set1_ps(-HUGE_VALF);
  for (size_t i = 0; i < n; i += 8) {
    const __m256i mask = laneMask(n - i);
    greatest = _mm256_max_ps(
        greatest, _mm256_blendv_ps(greatest, _mm256_maskload_ps(y + i, mask), _mm256_castsi256_ps(mask)));
  }
  float lanes[8], maximum = -HUGE_VALF;
  _mm256_storeu_ps(lanes, greatest);
  for (const float lane : lanes) maximum = lane > maximum ? lane : maximum;
  const __m256 shift = _mm256_set1_ps(maximum);
  __m256d sum = _mm256_setzero_pd();
  for (size_t i = 0; i < n; i += 8) {
    const __m256i mask = laneMask(n - i);
    const __m256 e = exp256(_mm256_sub_ps(_mm256_maskload_ps(y + i, mask), shift));
    sum = addFloats(sum, _mm256_and_ps(e, _mm256_castsi256_ps(mask)));
  }
  return maximum + float(std::log(total(sum)));
}

void logProbabilities(const float* y, size_t n, float* out) {
  const __m256 normalizer = _mm256_set1_ps(logSum(y, n)), least = _mm256_set1_ps(kLogLeastProbability);
  for (size_t i = 0; i < n; i += 8) {
    const __m256i mask = laneMask(n - i);
    _mm256_maskstore_ps(out + i, mask,
                        _mm256_max_ps(_mm256_sub_ps(_mm256_maskload_ps(y + i, mask), normalizer), least));
  }
}

double divergence(const float* y, const float* reference, size_t n) {
  const __m256 normalizer = _mm256_set1_ps(logSum(y, n)), least = _mm256_set1_ps(kLogLeastProbability);
  __m256d sum = _mm256_setzero_pd();
  for (size_t i = 0; i < n; i += 8) {
    const __m256i mask = laneMask(n - i);
    const __m256 log = _mm256_max_ps(_mm256_sub_ps(_mm256_maskload_ps(y + i, mask), normalizer), least);
    const __m256 term =
        _mm256_mul_ps(exp256(log), _mm256_sub_ps(log, _mm256_maskload_ps(reference + i, mask)));
    sum = addFloats(sum, _mm256_and_ps(term, _mm256_castsi256_ps(mask)));
  }
  return total(sum);
}

}  // namespace

const SoftmaxKernels kSoftmaxAvx2 = {logProbabilities, divergence};

}  // namespace slim
#pragma GCC pop_options
#endif
