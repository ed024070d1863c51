// Arguments of the kernels that quantize a matrix group by group.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// Rows that one CTA takes, a warp each.
constexpr uint32_t kQuantizedRows = 8;
/// A group's row lies in the registers of one warp, eight weights a lane.
constexpr uint32_t kMostGroupColumns = 256;
constexpr uint32_t kMostBits = 8;

/// quantizeGroups…: groups firstGroup + blockIdx.x of w, those of a width of up to 32, 64, … columns.
struct QuantizeGroupsArguments {
  Address<const float> w;            // [rows, cols]
  Address<const float> h;            // [cols] what an error costs (Quantizer::Wide), or null: all the same
  Address<const float> upper;        // U [cols, cols], one group alone; or null: no compensation
  Address<const uint8_t> groupBits;  // [groups]
  Address<uint8_t> codes;            // [rows, cols]
  Address<uint16_t> scales, means;   // float16 [groups, rows]
  Address<uint8_t> zeros;            // [groups, rows]
  Address<float> errors;             // [rows, errorStride] e of the group's columns, with U
  uint64_t errorStride;
  uint32_t rows, cols, groupSize, firstGroup, quantizer;
};

/// addLosses: losses [rows] += Σ e² over the first `width` columns of errors.
struct AddLossesArguments {
  Address<const float> errors;  // [rows, stride]
  Address<double> losses;
  uint64_t stride;
  uint32_t rows, width;
};

/// groupShares: shares [groups][row tiles][mostBits] = Σ of a tile's rows f_o Σ_j e_oj² / U_jj², the group
/// fitted as it stands.
struct GroupSharesArguments {
  Address<const float> w;                       // [rows, cols]
  Address<const float> h;                       // [cols], for Quantizer::Wide
  Address<const double> columnCosts, rowCosts;  // 1 / U_jj² [cols], f_o [rows]
  Address<double> shares;
  uint32_t rows, cols, groupSize, mostBits, quantizer;
};

/// dequantizeGroups: w = scale · (code − zero), 1 bit: mean ± scale.
struct DequantizeGroupsArguments {
  Address<const uint8_t> codes, groupBits;
  Address<const uint16_t> scales, means;
  Address<const uint8_t> zeros;
  Address<float> w;  // [rows, cols]
  uint32_t rows, cols, groupSize;
};

/// packCodes, packZeros: the canonical layout of docs/format.md.
struct PackGroupsArguments {
  Address<const uint8_t> codes, groupBits;
  Address<const uint16_t> means;
  Address<const uint8_t> zeros;
  Address<const uint64_t> codeOffsets, zeroOffsets;  // [groups] bytes
  Address<uint8_t> qweight, qzeros;
  uint32_t rows, cols, groupSize;
};

}  // namespace slim::cuda
