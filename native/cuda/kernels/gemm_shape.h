// How a CTA of packedGemm… lays out its shared memory: the host asks for it, the kernel fills it.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

constexpr uint32_t kGemmWarps = 8, kGemmRowTiles = 2;  // row tiles of a warp
/// Of codes to come, a row tile: 8 units of 1 bit, one of 8 bits. A power of two.
constexpr uint32_t kCodeRingBytes = 2048;

/// A CTA's tiles of 8 tokens, and the slots of a unit. Up to 32 tokens, the warps are two parts that share
/// the CTA's rows, each with its own units and a barrier of its own.
struct GemmShape {
  uint32_t tiles, slots;

  /// 2, 4 or 8 tiles; of units of several slots, whose scales need the registers, up to 4.
  static constexpr GemmShape forTiles(uint32_t tiles, uint32_t slots) {
    return {tiles <= 2 ? 2u : tiles <= 4 || slots > 1 ? 4u : 8u, slots};
  }
  /// CTAs that a multiprocessor's registers hold.
  constexpr uint32_t atOnce() const { return tiles == 2 ? 2 : 1; }

  SLIM_HOST_DEVICE constexpr uint32_t parts() const { return tiles <= 4 ? 2 : 1; }
  SLIM_HOST_DEVICE constexpr uint32_t warpsOfPart() const { return kGemmWarps / parts(); }
  SLIM_HOST_DEVICE constexpr uint32_t rows() const { return warpsOfPart() * kGemmRowTiles * kUnitRows; }
  /// Units whose activations, scales and zero points are there or on their way; 87 KB at most in all, which
  /// every architecture has.
  SLIM_HOST_DEVICE constexpr uint32_t stages() const { return tiles > 2 && slots == 4 ? 2 : 3; }
  /// Where a stage's sums of activations begin, its scales and zero points; its end.
  SLIM_HOST_DEVICE constexpr uint32_t sums() const { return tiles * 2048; }
  SLIM_HOST_DEVICE constexpr uint32_t metadata() const { return sums() + tiles * 16 * floatsOfSums(slots); }
  SLIM_HOST_DEVICE constexpr uint32_t stageBytes() const {
    return metadata() + warpsOfPart() * kGemmRowTiles * slots * 64;
  }
  SLIM_HOST_DEVICE constexpr uint32_t partBytes() const {
    return stages() * stageBytes() + warpsOfPart() * kGemmRowTiles * kCodeRingBytes;
  }
  SLIM_HOST_DEVICE constexpr uint32_t sharedBytes() const { return parts() * partBytes(); }
};

}  // namespace slim::cuda
