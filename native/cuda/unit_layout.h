// The device layout of packed weights: units of 16 rows × 128 columns in the A-fragment order of
// mma.m16n8k16, read by the host that packs them and by the kernels that take them apart.
//
// A lane owns 4 registers of two float16 in each of a unit's 8 k-tiles: register r holds row lane/4 + 8 (r &
// 1) and columns 2 (lane % 4) + 8 (r >> 1) + {0, 1} of the tile. Its 64 codes of b bits are 2b words. A code
// whose lowest bit sits at bit j of a float16's mantissa, under the exponent 10 − j, reads as 2^(10−j) +
// code, exactly: one LOP3, (word & mask) | exponent, makes two weights. Fields lie at mantissa bits 1 to 9
// alone; the other bits of a word come under them by a rotation by 8. Three bits are a plane of the two upper
// bits, as if they were 2-bit codes, and a plane of the lowest bits, aligned to them. One bit takes the
// exponent 11 − j: 2 code.
#pragma once
#include <cstdint>

#ifdef __CUDACC__
#define SLIM_HOST_DEVICE __host__ __device__
#else
#define SLIM_HOST_DEVICE
#endif

namespace slim::cuda {

constexpr int kUnitRows = 16, kUnitColumns = 128, kTilesOfUnit = 8;
/// Widths that have a layout; codes of 5 to 7 bits are stored as 8.
constexpr int kWidths = 5;
SLIM_HOST_DEVICE constexpr int widthBits(int index) { return index == 4 ? 8 : index + 1; }
SLIM_HOST_DEVICE constexpr int widthIndex(int bits) { return bits <= 4 ? bits - 1 : 4; }
/// Bytes of a unit of `bits` bits: 256 · bits.
constexpr int kUnitBytesABit = kUnitRows * kUnitColumns / 8;

/// Where a register's codes lie: in this word, rotated left by `rotation` from mantissa bit `lowest` on (and
/// 16 bits above, the odd column's).
struct Field {
  int word, rotation, lowest;
};

SLIM_HOST_DEVICE constexpr Field fieldOf(int bits, int tile, int reg) {
  switch (bits) {
    case 1:
      return {tile / 4, 8 * (tile / 2 % 2), 9 - reg - 4 * (tile % 2)};
    case 2:
      return {tile / 2, 8 * (tile % 2), 8 - 2 * reg};
    case 3:  // the code's own lowest bit; its upper two lie one above it
      return {tile / 2, 8 * (tile % 2), 7 - 2 * reg};
    case 4:
      return {tile, 8 * (reg / 2), 6 - 4 * (reg % 2)};
    default:
      return {2 * tile + reg / 2, 8 * (reg % 2), 2};
  }
}

/// The plane of lowest bits of 3-bit codes.
SLIM_HOST_DEVICE constexpr Field lowFieldOf(int tile, int reg) {
  return {4 + tile / 4, 8 * (tile % 2) + tile / 2 % 2, 7 - 2 * reg};
}

/// Words of a lane lie in pieces of up to four, so that a warp's load of a piece is contiguous: the word's
/// place in the unit, in words.
SLIM_HOST_DEVICE constexpr int wordPlace(int bits, int lane, int word) {
  const int inPiece = bits == 1 || (bits == 3 && word >= 4) ? 2 : 4;
  return word / 4 * 128 + lane * inPiece + word % 4;
}

/// What a code reads as beyond its value (of 1-bit codes beyond ±1): taken off through sums of activations.
SLIM_HOST_DEVICE constexpr int fieldExcess(int bits, int tile, int reg) {
  const int lowest = fieldOf(bits, tile, reg).lowest;
  return bits == 1 ? (1 << (11 - lowest)) + 1 : 1 << (10 - lowest);
}

}  // namespace slim::cuda
