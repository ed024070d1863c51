// Conversions between float32 and the 16-bit floats, in portable integer arithmetic (the oracle of the vector
// paths).
#pragma once
#include <bit>
#include <cstdint>
#include <cstring>

namespace slim {

inline float halfToFloat(uint16_t h) {
  const uint32_t sign = uint32_t(h & 0x8000u) << 16, exponent = (h >> 10) & 31u, mantissa = h & 0x3ffu;
  if (exponent == 31)  // infinity, or a NaN, which becomes quiet as in the F16C instructions
    return std::bit_cast<float>(sign | 0x7f800000u | (mantissa << 13) | (mantissa ? 0x400000u : 0u));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  const float magnitude = float(mantissa) * 0x1p-24f;  // zero and subnormals, exact
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

/// Round to nearest, ties to even; overflow becomes infinity, NaN stays NaN.
inline uint16_t floatToHalf(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value), sign = (bits >> 16) & 0x8000u,
                 magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);   // 65520 and above round to infinity
  if (magnitude < 0x38800000u) {                                   // below 2^-14: subnormal, unit 2^-24
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;  // the float adder rounds to even at 2^-24
    return uint16_t(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000u));
  }
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

/// The half stored at any address.
inline float loadHalf(const uint8_t* p) {
  uint16_t half;
  std::memcpy(&half, p, 2);
  return halfToFloat(half);
}

inline float roundToHalf(float value) { return halfToFloat(floatToHalf(value)); }

inline float bfloatToFloat(uint16_t b) { return std::bit_cast<float>(uint32_t(b) << 16); }

/// Round to nearest, ties to even; NaN stays NaN.
inline uint16_t floatToBfloat(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x40u);
  return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

}  // namespace slim
