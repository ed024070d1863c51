// The kernels' arguments, as the host writes them and the kernels read them. Pointers are device addresses.
#pragma once
#include <cstdint>

#include "cuda/unit_layout.h"

namespace slim::cuda {

/// Raised with every change of an argument, a layout or a kernel's name: the host refuses other kernels.
constexpr uint32_t kKernelsVersion = 6;

#ifdef __CUDACC__
template <typename T>
using Address = T*;
#else
template <typename T>
struct Address {
  uint64_t value = 0;
};
#endif

enum class ActivationType : uint32_t { F32, F16, BF16 };

/// Where a slot's columns come from: its group's, [column, column + width).
struct Slot {
  uint32_t column;
  uint16_t width, bits;
};

/// Two tokens' sums of activations over the slots of a unit, in float32: four of every slot as the
/// accumulators of lane/4 and lane/4 + 8 start, the excess of their rows (fieldExcess) taken off; then two of
/// every slot, by which its offsets are multiplied: of 1-bit codes the sums, of others what takes the zero
/// points off, the sums' opposite. 16-byte vectors.
SLIM_HOST_DEVICE constexpr uint32_t floatsOfSums(uint32_t slotsOfUnit) {
  return slotsOfUnit == 1 ? 8 : 6 * slotsOfUnit;
}

/// tokenScales: x [tokens, stride] → scales [2, tokens].
struct TokenScalesArguments {
  Address<const void> x;
  Address<float> scales;
  uint64_t stride;
  uint32_t columns, type;
};

/// packActivations: x → the B fragments, excess sums and sums of one matrix.
struct PackActivationsArguments {
  Address<const void> x;
  Address<const float> scales;
  Address<const Slot> slots;
  Address<void> fragments;
  Address<float> sums;
  uint64_t stride;
  uint32_t tokens, type, slotsOfUnit, tileTokens;
};

constexpr uint32_t kMostStripes = 256;
/// Of 16 rows' partial sums of a token in shared memory (GEMV): neither writing nor reading them meets a bank
/// twice.
constexpr uint32_t kTokenStride = 20;

/// dequantizePanel…: rows of packed weights → float16 in A fragments, [row tile][k-tile].
struct DequantizePanelArguments {
  Address<const void> codes, metadata;  // as below
  Address<void> panel;
  uint64_t tileStride;
  uint32_t units, firstTile, tiles;  // of the matrix; the panel's first
  float scale;                       // a power of two, by which weights are multiplied
  uint32_t runBegin[kWidths + 1], runOffset[kWidths];
};

constexpr uint32_t kPanelGemmRows = 128, kPanelGemmTokens = 128, kPanelStages = 4;

/// packedGemv…, packedGemm…; panelGemm…, whose codes are a panel: y [tokens, yStride] = x · Wᵀ (+ bias) (+
/// y).
struct PackedProductArguments {
  Address<const void> codes;  // [row tile][unit]: 256 · bits bytes
  Address<const void>
      metadata;  // [row tile][unit][row % 8][slot][row / 8]: float16 scale, float16 zero point or mean
  Address<const void> fragments;
  Address<const float> sums;    // [unit][token tile][pair of tokens][floatsOfSums]
  Address<const float> scales;  // [2, tokens]; the second row undoes the first
  Address<const float> bias;    // [rows] or null
  Address<float> y;
  Address<float> workspace;    // partial sums of the splits of K
  Address<uint32_t> arrivals;  // 0 before and after a launch
  uint64_t tileStride;         // of codes, in units of 256 bytes
  uint64_t yStride;
  uint32_t rows, tokens, units, accumulate;
  float unscale;                   // panels: undoes the scale of the weights
  uint32_t warpsOfTile;            // GEMV: warps that share a row tile
  uint32_t runBegin[kWidths + 1];  // first unit of every width, the number of units
  uint32_t runOffset[kWidths];     // its codes' place in a row tile, in units of 256 bytes
  /// First units of the stripes of K, one a warp (GEMV) or part of a CTA (GEMM), and the number of units.
  uint16_t stripes[kMostStripes + 1];
};

}  // namespace slim::cuda
