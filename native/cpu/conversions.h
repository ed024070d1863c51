// Runs of 16-bit floats and of GGUF blocks to and from float32. Every path gives the bits of core/half.h.
#pragma once
#include <cstddef>
#include <cstdint>

namespace slim {

struct Conversions {
  // Sources and targets need no alignment beyond one byte (sources: mapped files).
  void (*halfToFloat)(const uint8_t* from, size_t count, float* to);
  void (*bfloatToFloat)(const uint8_t* from, size_t count, float* to);
  void (*floatToHalf)(const float* from, size_t count, uint16_t* to);
  void (*floatToBfloat)(const float* from, size_t count, uint16_t* to);
  // `count` elements in blocks of 32; the last block may be used in part.
  void (*q8_0ToFloat)(const uint8_t* from, size_t count, float* to);
  void (*q4_0ToFloat)(const uint8_t* from, size_t count, float* to);
  void (*q4_1ToFloat)(const uint8_t* from, size_t count, float* to);
};

/// Those of the active instruction set (cpu/features.h).
const Conversions& activeConversions();

}  // namespace slim
