// Decoding of packed rows with AVX2; its oracle is quant/packed_decode.cc.
#if defined(__x86_64__)
#include <immintrin.h>

#include "quant/packed_decode.h"

#pragma GCC push_options
#pragma GCC target("avx2")

namespace slim {
namespace {

// Four codes of up to eight bits fit 32: codes 0 … 3 are shifted out of one word, codes 4 … 7 out of another.
template <unsigned kBits>
void decodeEights(const uint8_t* codes, size_t eights, float scale, float offset, float* out) {
  constexpr int b = kBits;
  const __m256i shifts = _mm256_setr_epi32(0, b, 2 * b, 3 * b, 0, b, 2 * b, 3 * b);
  const __m256i mask = _mm256_set1_epi32((1 << b) - 1);
  const __m256 scales = _mm256_set1_ps(scale), offsets = _mm256_set1_ps(offset);
  const __m256 minus = _mm256_sub_ps(offsets, scales), plus = _mm256_add_ps(offsets, scales);
  for (size_t e = 0; e < eights; ++e, codes += kBits, out += 8) {
    const uint64_t word = loadEight<kBits>(codes);
    const __m128i low = _mm_set1_epi32(int(uint32_t(word))),
                  high = _mm_set1_epi32(int(uint32_t(word >> (4 * b))));
    const __m256i code = _mm256_srlv_epi32(_mm256_set_m128i(high, low), shifts);
    if constexpr (kBits == 1) {  // the code's bit becomes the sign that blendv looks at
      const __m256 sign = _mm256_castsi256_ps(_mm256_slli_epi32(code, 31));
      _mm256_storeu_ps(out, _mm256_blendv_ps(minus, plus, sign));
    } else {
      const __m256 level = _mm256_cvtepi32_ps(_mm256_and_si256(code, mask));
      _mm256_storeu_ps(out, _mm256_mul_ps(scales, _mm256_sub_ps(level, offsets)));
    }
  }
}

}  // namespace

const DecodeKernels kDecodeAvx2 = {nullptr,         decodeEights<1>, decodeEights<2>,
                                   decodeEights<3>, decodeEights<4>, decodeEights<5>,
                                   decodeEights<6>, decodeEights<7>, decodeEights<8>};

}  // namespace slim
#pragma GCC pop_options
#endif
