// Arguments of the refinement's kernels.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// refineGroup…: one step of coordinate descent for all rows of one group. Matrices lie [rows, columns],
/// their addresses being those of the group's first column.
struct RefineGroupArguments {
  Address<const float> h;         // the group's diagonal block of H [columns, columns]
  Address<const float> gradient;  // (W − Q) H
  Address<float> error;           // W − Q
  Address<float> changes;         // Q before − Q after, rows changeStride apart
  Address<uint8_t> codes;
  Address<uint16_t> scales, means;  // [rows]
  Address<const uint8_t> zeros;     // [rows]
  uint64_t columns, changeStride;
  uint32_t rows, width, bits;
};
constexpr uint32_t kRefineWarps = 4;
/// The widest group and the rows of a warp, of refineGroup128 and of refineGroup256.
constexpr uint32_t kNarrowWidth = 128, kNarrowRows = 4, kWideWidth = 256, kWideRows = 2;

}  // namespace slim::cuda
