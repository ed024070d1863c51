#include "cpu/conversions.h"

#include <algorithm>
#include <cstring>

#include "core/half.h"
#include "cpu/features.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Each loop is written once and compiled for every instruction set: the compiler vectorizes it by the target
// of the function that it is inlined into. Only half needs instructions of its own (F16C).
#define SLIM_INLINE inline __attribute__((always_inline))

namespace slim {
namespace {

SLIM_INLINE void halves(const uint8_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] = loadHalf(from + 2 * i);
}

SLIM_INLINE void bfloats(const uint8_t* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) {
    uint16_t b;
    std::memcpy(&b, from + 2 * i, 2);
    to[i] = bfloatToFloat(b);
  }
}

SLIM_INLINE void toHalves(const float* from, size_t count, uint16_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = floatToHalf(from[i]);
}

SLIM_INLINE void toBfloats(const float* from, size_t count, uint16_t* to) {
  for (size_t i = 0; i < count; ++i) to[i] = floatToBfloat(from[i]);
}

constexpr size_t kBlock = 32;

SLIM_INLINE void q8_0Block(const uint8_t* block, float* to) {
  const float scale = loadHalf(block);
  for (size_t i = 0; i < kBlock; ++i) to[i] = float(int8_t(block[2 + i])) * scale;
}

// 4-bit codes hold elements i and i + 16 in one byte. The codes are copied first: bytes may alias the floats
// that are written, which would keep the loops from being vectorized (2 → 8 G elements/s).
SLIM_INLINE void q4Block(const uint8_t* from, float scale, float minimum, float* to) {
  uint8_t codes[kBlock];
  for (size_t i = 0; i < kBlock / 2; ++i) {
    codes[i] = from[i] & 15;
    codes[i + kBlock / 2] = from[i] >> 4;
  }
  for (size_t i = 0; i < kBlock; ++i) to[i] = float(codes[i]) * scale + minimum;
}

SLIM_INLINE void q4_0Block(const uint8_t* block, float* to) {
  const float scale = loadHalf(block);
  q4Block(block + 2, scale, -8.0f * scale, to);
}

SLIM_INLINE void q4_1Block(const uint8_t* block, float* to) {
  q4Block(block + 4, loadHalf(block), loadHalf(block + 2), to);
}

template <typename Block>
SLIM_INLINE void blocks(Block decode, const uint8_t* from, size_t blockBytes, size_t count, float* to) {
  for (; count >= kBlock; count -= kBlock, from += blockBytes, to += kBlock) decode(from, to);
  if (count == 0) return;
  float last[kBlock];
  decode(from, last);
  std::memcpy(to, last, count * sizeof(float));
}

constexpr size_t kQ8_0Bytes = 34, kQ4_0Bytes = 18, kQ4_1Bytes = 20;

namespace portable {
void halfToFloat(const uint8_t* from, size_t count, float* to) { halves(from, count, to); }
void bfloatToFloat(const uint8_t* from, size_t count, float* to) { bfloats(from, count, to); }
void floatToHalf(const float* from, size_t count, uint16_t* to) { toHalves(from, count, to); }
void floatToBfloat(const float* from, size_t count, uint16_t* to) { toBfloats(from, count, to); }
void q8_0ToFloat(const uint8_t* from, size_t count, float* to) {
  blocks(q8_0Block, from, kQ8_0Bytes, count, to);
}
void q4_0ToFloat(const uint8_t* from, size_t count, float* to) {
  blocks(q4_0Block, from, kQ4_0Bytes, count, to);
}
void q4_1ToFloat(const uint8_t* from, size_t count, float* to) {
  blocks(q4_1Block, from, kQ4_1Bytes, count, to);
}
}  // namespace portable

constexpr Conversions kPortable = {portable::halfToFloat,   portable::bfloatToFloat, portable::floatToHalf,
                                   portable::floatToBfloat, portable::q8_0ToFloat,   portable::q4_0ToFloat,
                                   portable::q4_1ToFloat};

#if defined(__x86_64__)

#define SLIM_AVX2 __attribute__((target("avx2,fma,f16c")))
namespace avx2 {
SLIM_AVX2 void halfToFloat(const uint8_t* from, size_t count, float* to) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(to + i,
                     _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 2 * i))));
  halves(from + 2 * i, count - i, to + i);
}
SLIM_AVX2 void floatToHalf(const float* from, size_t count, uint16_t* to) {
  size_t i = 0;
  for (; i + 8 <= count; i += 8)
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i),
                     _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT));
  toHalves(from + i, count - i, to + i);
}
SLIM_AVX2 void bfloatToFloat(const uint8_t* from, size_t count, float* to) { bfloats(from, count, to); }
SLIM_AVX2 void floatToBfloat(const float* from, size_t count, uint16_t* to) { toBfloats(from, count, to); }
SLIM_AVX2 void q8_0ToFloat(const uint8_t* from, size_t count, float* to) {
  blocks(q8_0Block, from, kQ8_0Bytes, count, to);
}
// Written out: GCC 12 leaves the loop of q4Block half scalar for this target (2 → 15 G elements/s).
SLIM_AVX2 inline void q4Vectors(const uint8_t* from, float scale, float minimum, float* to) {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from)), mask = _mm_set1_epi8(15);
  const __m128i codes[2] = {_mm_and_si128(bytes, mask), _mm_and_si128(_mm_srli_epi16(bytes, 4), mask)};
  const __m256 scales = _mm256_set1_ps(scale), minima = _mm256_set1_ps(minimum);
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m128i eight = i % 2 ? _mm_unpackhi_epi64(codes[i / 2], codes[i / 2]) : codes[i / 2];
    const __m256 values = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(eight));
    _mm256_storeu_ps(to + 8 * i, _mm256_add_ps(_mm256_mul_ps(values, scales), minima));
  }
}
SLIM_AVX2 inline void q4_0Vectors(const uint8_t* block, float* to) {
  const float scale = loadHalf(block);
  q4Vectors(block + 2, scale, -8.0f * scale, to);
}
SLIM_AVX2 inline void q4_1Vectors(const uint8_t* block, float* to) {
  q4Vectors(block + 4, loadHalf(block), loadHalf(block + 2), to);
}
SLIM_AVX2 void q4_0ToFloat(const uint8_t* from, size_t count, float* to) {
  blocks(q4_0Vectors, from, kQ4_0Bytes, count, to);
}
SLIM_AVX2 void q4_1ToFloat(const uint8_t* from, size_t count, float* to) {
  blocks(q4_1Vectors, from, kQ4_1Bytes, count, to);
}
}  // namespace avx2

constexpr Conversions kAvx2 = {avx2::halfToFloat, avx2::bfloatToFloat, avx2::floatToHalf, avx2::floatToBfloat,
                               avx2::q8_0ToFloat, avx2::q4_0ToFloat,   avx2::q4_1ToFloat};
#endif

}  // namespace

const Conversions& activeConversions() {
#if defined(__x86_64__)
  // AVX-512 would not be faster: these loops wait for memory.
  if (activeInstructionSet() != InstructionSet::Portable) return kAvx2;
#endif
  return kPortable;
}

}  // namespace slim
