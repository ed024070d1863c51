// Arguments of the kernels of salience and of SBA.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// columnEnergies: energies [columns] = Σ w² over all rows.
struct ColumnEnergiesArguments {
  Address<const float> w;  // [rows, columns]
  Address<double> energies;
  uint32_t rows, columns;
};
/// Columns of a CTA, and warps that share their rows.
constexpr uint32_t kEnergyColumns = 32, kEnergyWarps = 8;

/// A group's columns [column, column + width) and where they go, [place, place + width).
struct PlacedGroup {
  uint32_t column, width, place;
  uint16_t bits, otherBits;  // otherBits 0: none
};

/// roundGroups: out [rows, outStride] = the group rounded to nearest at `bits` (− it at `otherBits`).
struct RoundGroupsArguments {
  Address<const float> w;  // [rows, columns]
  Address<const PlacedGroup> groups;
  Address<float> out;
  uint64_t outStride;
  uint32_t rows, columns;
};
/// Rows of a CTA, one a warp.
constexpr uint32_t kRoundRows = 8;

/// gatherColumns: out [tokens, outStride], the groups' columns in their places.
struct GatherColumnsArguments {
  Address<const float> x;  // [tokens, columns]
  Address<const PlacedGroup> groups;
  Address<float> out;
  uint64_t outStride, columns;
};

/// logProbabilities: y becomes log max(softmax(y), 1e-6), one CTA a token.
/// divergences: out [tokens] = KL(softmax(y) ‖ reference), both clamped, `reference` from logProbabilities.
struct SoftmaxArguments {
  Address<float> y;                // [tokens, size]
  Address<const float> reference;  // likewise
  Address<double> out;
  uint64_t size;
};

}  // namespace slim::cuda
