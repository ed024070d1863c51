// exp and |x|^2.4 of sixteen floats, for files compiled for AVX-512. Polynomials: minimax fits; relative
// errors are of the whole functions, measured against float64.
#pragma once
#include <immintrin.h>

namespace slim {
namespace {

// 2^f for |f| ≤ ½, relative error 7.5e-8.
inline __m512 exp2Fraction512(__m512 f) {
  __m512 y = _mm512_set1_ps(0.0013276472454890609f);
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.009675541892647743f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.05550713092088699f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.24022120237350464f));
  y = _mm512_fmadd_ps(y, f, _mm512_set1_ps(0.6931469440460205f));
  return _mm512_fmadd_ps(y, f, _mm512_set1_ps(1.0000001192092896f));
}

// e^x for x ≤ 0 (below −87: e^−87), relative error 3e-7.
inline __m512 exp512(__m512 x) {
  x = _mm512_max_ps(x, _mm512_set1_ps(-87.0f));
  const __m512 log2e = _mm512_set1_ps(1.44269504f);
  const __m512 n =
      _mm512_roundscale_ps(_mm512_mul_ps(x, log2e), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693145752f), x);  // ln 2 in two parts: n·ln2 exactly enough
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(1.42860677e-6f), r);
  return _mm512_scalef_ps(exp2Fraction512(_mm512_mul_ps(r, log2e)), n);
}

// |e|^2.4 = e² · 2^(0.4·log2|e|), relative error 5e-7, for 2^-60 < |e| < 2^60; smaller ones count as 2^-60.
inline __m512 powSearchNorm512(__m512 e) {
  const __m512 x = _mm512_max_ps(_mm512_abs_ps(e), _mm512_set1_ps(0x1p-60f));
  const __m512 t =
      _mm512_sub_ps(_mm512_getmant_ps(x, _MM_MANT_NORM_1_2, _MM_MANT_SIGN_src), _mm512_set1_ps(1));
  __m512 y = _mm512_set1_ps(0.015529889613389969f);  // log2(1 + t) / t, absolute error 3.1e-7
  y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.0795576423406601f));
  y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(0.19429421424865723f));
  y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.32590189576148987f));
  y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(0.4735533893108368f));
  y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(-0.7205854654312134f));
  y = _mm512_fmadd_ps(y, t, _mm512_set1_ps(1.442667841911316f));
  const __m512 power = _mm512_mul_ps(_mm512_fmadd_ps(y, t, _mm512_getexp_ps(x)), _mm512_set1_ps(0.4f));
  const __m512 n = _mm512_roundscale_ps(power, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 root = _mm512_scalef_ps(exp2Fraction512(_mm512_sub_ps(power, n)), n);
  return _mm512_mul_ps(_mm512_mul_ps(x, x), root);
}

}  // namespace
}  // namespace slim
