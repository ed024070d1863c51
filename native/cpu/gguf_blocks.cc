#include "cpu/gguf_blocks.h"

#include "core/half.h"

// Every block is scales (halves, and in the K types small integers that multiply them) and planes of codes.
// Products and sums are taken in float32 in the order of ggml's own decoder, so that every value is its
// value.
namespace slim {
namespace {

constexpr size_t kSuper = 256, kHalfBytes = 2;

// Planes of codes: element i of ...
// ... 32 codes of 4 bits: i and i + 16 share a byte.
inline int nibbleOf32(const uint8_t* plane, size_t i) { return plane[i % 16] >> (i / 16 * 4) & 15; }
// ... 256 codes of 4 bits, in runs of 64: i and i + 32 share a byte.
inline int nibbleOf64(const uint8_t* plane, size_t i) {
  return plane[i / 64 * 32 + i % 32] >> (i % 64 / 32 * 4) & 15;
}
// ... 256 codes of 4 bits, in runs of 128: i and i + 64 share a byte.
inline int nibbleOf128(const uint8_t* plane, size_t i) {
  return plane[i / 128 * 64 + i % 64] >> (i % 128 / 64 * 4) & 15;
}
// ... 256 codes of 2 bits, in runs of 128: i, i + 32, i + 64 and i + 96 share a byte.
inline int crumb(const uint8_t* plane, size_t i) {
  return plane[i / 128 * 32 + i % 32] >> (i % 128 / 32 * 2) & 3;
}
// ... 256 single bits: i, i + 32, …, i + 224 share a byte.
inline int strandedBit(const uint8_t* plane, size_t i) { return plane[i % 32] >> (i / 32) & 1; }
// ... bits or 2-bit codes in order.
inline int bitInOrder(const uint8_t* plane, size_t i) { return plane[i / 8] >> (i % 8) & 1; }
inline int crumbInOrder(const uint8_t* plane, size_t i) { return plane[i / 4] >> (i % 4 * 2) & 3; }

inline int fiveBits(const uint8_t* highBits, const uint8_t* nibbles, size_t i) {
  return nibbleOf32(nibbles, i) | bitInOrder(highBits, i) << 4;
}

// The levels of IQ4_NL and IQ4_XS.
constexpr int kNonLinear[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Q3_K's scale of run s of 16: 16 scales of 6 bits, offset by 32: low four bits in bytes 0-7, high two in
// 8-11.
inline int scaleOf16(const uint8_t* scales, size_t s) {
  const int low = scales[s % 8] >> (s / 8 * 4) & 15, high = scales[8 + s % 4] >> (s / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

struct ScaleAndMinimum {
  int scale, minimum;
};

// Q4_K's and Q5_K's of run s of 32: 8 + 8 numbers of 6 bits: those of runs 0-3 fill the low bits of bytes
// 0-7; runs 4-7 have their low four bits in bytes 8-11 and their high two above those of runs 0-3.
inline ScaleAndMinimum scaleOf32(const uint8_t* scales, size_t s) {
  if (s < 4) return {scales[s] & 63, scales[s + 4] & 63};
  return {(scales[s + 4] & 15) | scales[s - 4] >> 6 << 4, scales[s + 4] >> 4 | scales[s] >> 6 << 4};
}

// Q4_K and Q5_K: half scale, half minimum, 12 bytes of scaleOf32, then the planes that `code` reads.
template <typename Code>
void decodeScaledRuns(const uint8_t* block, Code code, float* to) {
  const float scale = loadHalf(block), minimum = loadHalf(block + kHalfBytes);
  for (size_t s = 0; s < kSuper / 32; ++s) {
    const auto run = scaleOf32(block + 2 * kHalfBytes, s);
    const float runScale = scale * float(run.scale), runMinimum = minimum * float(run.minimum);
    for (size_t i = 32 * s; i < 32 * (s + 1); ++i) to[i] = runScale * float(code(i)) - runMinimum;
  }
}

}  // namespace

void decodeQ5_0(const uint8_t* block, float* to) {
  const float scale = loadHalf(block);
  for (size_t i = 0; i < 32; ++i) to[i] = float(fiveBits(block + 2, block + 6, i) - 16) * scale;
}

void decodeQ5_1(const uint8_t* block, float* to) {
  const float scale = loadHalf(block), minimum = loadHalf(block + kHalfBytes);
  for (size_t i = 0; i < 32; ++i) to[i] = float(fiveBits(block + 4, block + 8, i)) * scale + minimum;
}

void decodeIq4Nl(const uint8_t* block, float* to) {
  const float scale = loadHalf(block);
  for (size_t i = 0; i < 32; ++i) to[i] = scale * float(kNonLinear[nibbleOf32(block + 2, i)]);
}

void decodeQ2_0(const uint8_t* block, float* to) {
  const float scale = loadHalf(block);
  for (size_t i = 0; i < 64; ++i) to[i] = float(crumbInOrder(block + 2, i) - 1) * scale;
}

void decodeQ2K(const uint8_t* block, float* to) {
  const uint8_t *scales = block, *codes = block + 16;
  const float scale = loadHalf(block + 80), minimum = loadHalf(block + 82);
  for (size_t s = 0; s < kSuper / 16; ++s) {
    const float runScale = scale * float(scales[s] & 15), runMinimum = minimum * float(scales[s] >> 4);
    for (size_t i = 16 * s; i < 16 * (s + 1); ++i) to[i] = runScale * float(crumb(codes, i)) - runMinimum;
  }
}

void decodeQ3K(const uint8_t* block, float* to) {
  const uint8_t *highBits = block, *codes = block + 32, *scales = block + 96;
  const float scale = loadHalf(block + 108);
  for (size_t s = 0; s < kSuper / 16; ++s) {
    const float runScale = scale * float(scaleOf16(scales, s));
    for (size_t i = 16 * s; i < 16 * (s + 1); ++i)
      to[i] = runScale * float((crumb(codes, i) | strandedBit(highBits, i) << 2) - 4);
  }
}

void decodeQ4K(const uint8_t* block, float* to) {
  const uint8_t* codes = block + 16;
  decodeScaledRuns(
      block, [&](size_t i) { return nibbleOf64(codes, i); }, to);
}

void decodeQ5K(const uint8_t* block, float* to) {
  const uint8_t *highBits = block + 16, *codes = block + 48;
  decodeScaledRuns(
      block, [&](size_t i) { return nibbleOf64(codes, i) | strandedBit(highBits, i) << 4; }, to);
}

void decodeQ6K(const uint8_t* block, float* to) {
  const uint8_t *low = block, *high = block + 128, *scales = block + 192;
  const float scale = loadHalf(block + 208);
  for (size_t s = 0; s < kSuper / 16; ++s) {
    const float runScale = scale * float(int8_t(scales[s]));
    for (size_t i = 16 * s; i < 16 * (s + 1); ++i)
      to[i] = runScale * float((nibbleOf128(low, i) | crumb(high, i) << 4) - 32);
  }
}

// A half, eight times two high bits of the runs' scales, eight low nibbles of them, codes.
void decodeIq4Xs(const uint8_t* block, float* to) {
  const uint8_t *high = block + 2, *low = block + 4, *codes = block + 8;
  const float scale = loadHalf(block);
  for (size_t s = 0; s < kSuper / 32; ++s) {
    const int runScale = (low[s / 2] >> (s % 2 * 4) & 15) | crumbInOrder(high, s) << 4;
    const float product = scale * float(runScale - 32);
    for (size_t i = 0; i < 32; ++i)
      to[32 * s + i] = product * float(kNonLinear[nibbleOf32(codes + 16 * s, i)]);
  }
}

void decodeTq2_0(const uint8_t* block, float* to) {
  const float scale = loadHalf(block + 64);
  for (size_t i = 0; i < kSuper; ++i) to[i] = float(crumb(block, i) - 1) * scale;
}

}  // namespace slim
