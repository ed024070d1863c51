// f16 and bf16: exact widening, and rounding from a double in one step in any of the four modes.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace slim::emulator {

struct Half {
  uint16_t bits;
};
struct Brain {
  uint16_t bits;
};

enum class Rounding : uint8_t { kNearest, kZero, kDown, kUp };

constexpr uint16_t kCanonicalNaN = 0x7fff;

inline float toFloat(Half h) {
  const uint32_t magnitude = (h.bits & 0x7fffu) << 13, sign = (h.bits & 0x8000u) << 16;
  // Scaling by 2^112 moves the exponent's bias, subnormal numbers included; infinities and NaN are set apart.
  if ((h.bits & 0x7c00) == 0x7c00) return std::bit_cast<float>(sign | 0x7f800000u | magnitude);
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f));
}
inline float toFloat(Brain b) { return std::bit_cast<float>(uint32_t{b.bits} << 16); }

// Rounds to a format of `fraction` stored bits whose smallest normal exponent is minExponent, largest
// maxExponent.
inline double roundTo(double x, int fraction, int minExponent, int maxExponent, Rounding mode) {
  if (!std::isfinite(x) || x == 0) return x;
  int exponent = std::ilogb(x);
  if (exponent < minExponent) exponent = minExponent;
  const double unit = std::ldexp(1.0, exponent - fraction);
  const double scaled = x / unit;  // exact: a power of two
  double rounded = std::nearbyint(scaled);
  if (mode == Rounding::kZero) rounded = std::trunc(scaled);
  if (mode == Rounding::kDown) rounded = std::floor(scaled);
  if (mode == Rounding::kUp) rounded = std::ceil(scaled);
  const double result = std::copysign(rounded * unit, x);
  const double largest = std::ldexp(2.0 - std::ldexp(1.0, -fraction), maxExponent);
  if (std::fabs(result) <= largest) return result;
  const bool toLargest =
      mode == Rounding::kZero || (mode == Rounding::kDown && x > 0) || (mode == Rounding::kUp && x < 0);
  return std::copysign(toLargest ? largest : INFINITY, x);
}

inline Half halfFromExact(double x) {  // x is representable
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  if (std::isnan(x)) return {kCanonicalNaN};
  if (std::isinf(x)) return {static_cast<uint16_t>(sign | 0x7c00)};
  const float scaled = static_cast<float>(std::fabs(x)) * 0x1p-112f;
  return {static_cast<uint16_t>(sign | std::bit_cast<uint32_t>(scaled) >> 13)};
}

inline Half toHalf(double x, Rounding mode = Rounding::kNearest) {
  return halfFromExact(roundTo(x, 10, -14, 15, mode));
}

inline Brain toBrain(double x, Rounding mode = Rounding::kNearest) {
  if (std::isnan(x)) return {kCanonicalNaN};
  return {static_cast<uint16_t>(std::bit_cast<uint32_t>(static_cast<float>(roundTo(x, 7, -126, 127, mode))) >>
                                16)};
}

// The usual case, without the generality: float to the nearest half, ties to even.
inline Half nearestHalf(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffff;
  const auto sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (magnitude > 0x7f800000) return {kCanonicalNaN};
  if (magnitude >= 0x477ff000) return {static_cast<uint16_t>(sign | 0x7c00)};
  if (magnitude < 0x38800000) {
    // Adding a half's smallest subnormal times 2^23 lines the fraction up; the float's own rounding does the
    // rest.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5f;
    return {static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000))};
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return {static_cast<uint16_t>(sign | (magnitude - 0x38000000 + 0xfff + odd) >> 13)};
}

inline Brain nearestBrain(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffff) > 0x7f800000) return {kCanonicalNaN};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

// a * b + c of numbers whose product is exact in a double, rounded so that rounding once more, to a format of
// at most 51 bits, gives the right result: an inexact sum is made odd (Boldo and Melquiond).
inline double fusedToOdd(double a, double b, double c) {
  const double product = a * b, sum = product + c;
  if (!std::isfinite(sum)) return sum;
  const double back = sum - product;
  const double error = (product - (sum - back)) + (c - back);
  const auto bits = std::bit_cast<uint64_t>(sum);
  if (error == 0 || (bits & 1)) return sum;
  const bool away = (error > 0) == (sum > 0);
  return std::bit_cast<double>(away ? bits + 1 : bits - 1);
}

inline Half fromFloat(float x, Half) { return nearestHalf(x); }
inline Brain fromFloat(float x, Brain) { return nearestBrain(x); }
inline Half fromDouble(double x, Half) { return toHalf(x); }
inline Brain fromDouble(double x, Brain) { return toBrain(x); }

}  // namespace slim::emulator
