// exp and |x|^2.4 of eight floats, for files compiled for AVX2 and FMA. Polynomials: minimax fits; relative
// errors are of the whole functions, measured against float64.
#pragma once
#include <immintrin.h>

namespace slim {
namespace {

constexpr int kNearest256 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

// 2^(n + f) for whole n in [−126, 127] and |f| ≤ ½, relative error 7.5e-8.
inline __m256 exp2Parts256(__m256 n, __m256 f) {
  __m256 y = _mm256_set1_ps(0.0013276472454890609f);
  y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.009675541892647743f));
  y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.05550713092088699f));
  y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.24022120237350464f));
  y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(0.6931469440460205f));
  y = _mm256_fmadd_ps(y, f, _mm256_set1_ps(1.0000001192092896f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), exponent));
}

// e^x for x ≤ 0 (below −87: e^−87), relative error 3e-7.
inline __m256 exp256(__m256 x) {
  x = _mm256_max_ps(x, _mm256_set1_ps(-87.0f));
  const __m256 log2e = _mm256_set1_ps(1.44269504f);
  const __m256 n = _mm256_round_ps(_mm256_mul_ps(x, log2e), kNearest256);
  __m256 r = _mm256_fnmadd_ps(n, _mm256_set1_ps(0.693145752f), x);  // ln 2 in two parts: n·ln2 exactly enough
  r = _mm256_fnmadd_ps(n, _mm256_set1_ps(1.42860677e-6f), r);
  return exp2Parts256(n, _mm256_mul_ps(r, log2e));
}

// |e|^2.4 = e² · 2^(0.4·log2|e|), relative error 5e-7, for 2^-60 < |e| < 2^60; smaller ones count as 2^-60.
inline __m256 powSearchNorm256(__m256 e) {
  const __m256 x = _mm256_max_ps(_mm256_andnot_ps(_mm256_set1_ps(-0.0f), e), _mm256_set1_ps(0x1p-60f));
  const __m256i bits = _mm256_castps_si256(x), one = _mm256_set1_epi32(0x3f800000);
  const __m256 exponent =
      _mm256_cvtepi32_ps(_mm256_sub_epi32(_mm256_srli_epi32(bits, 23), _mm256_set1_epi32(127)));
  const __m256i mantissa = _mm256_or_si256(_mm256_and_si256(bits, _mm256_set1_epi32(0x7fffff)), one);
  const __m256 t = _mm256_sub_ps(_mm256_castsi256_ps(mantissa), _mm256_set1_ps(1));
  __m256 y = _mm256_set1_ps(0.015529889613389969f);  // log2(1 + t) / t, absolute error 3.1e-7
  y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(-0.0795576423406601f));
  y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(0.19429421424865723f));
  y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(-0.32590189576148987f));
  y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(0.4735533893108368f));
  y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(-0.7205854654312134f));
  y = _mm256_fmadd_ps(y, t, _mm256_set1_ps(1.442667841911316f));
  const __m256 power = _mm256_mul_ps(_mm256_fmadd_ps(y, t, exponent), _mm256_set1_ps(0.4f));
  const __m256 n = _mm256_round_ps(power, kNearest256);
  return _mm256_mul_ps(_mm256_mul_ps(x, x), exp2Parts256(n, _mm256_sub_ps(power, n)));
}

}  // namespace
}  // namespace slim
