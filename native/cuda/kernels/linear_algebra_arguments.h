// Arguments of the linear algebra that quantization is made of.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// Element (i, k) is data[i · stride + k], or data[k · stride + i] of a column-major one.
struct MultiplyOperand {
  Address<const float> data;
  uint64_t stride;
  uint32_t vectors;  // whether every fourth element of a row (column) lies on a 16-byte boundary
};

/// multiply…: c [m, n] = alpha · a · bᵀ (+ c), of several matrices (blockIdx.z) that lie so many elements
/// apart.
struct MultiplyArguments {
  MultiplyOperand a, b;
  Address<float> c;
  uint64_t ldc;
  uint64_t aApart, bApart, cApart;
  uint32_t m, n, k;
  float alpha;
  uint32_t accumulate, upperOnly;
  uint32_t pairs;  // whether rows of c lie on 8-byte boundaries
};

/// copyRows: out [rows, width] = a (− b).
struct CopyRowsArguments {
  Address<const float> a, b;  // b or null
  Address<float> out;
  uint64_t aStride, bStride, outStride;
  uint32_t width;
};

/// mirrorUpper: what lies above the diagonal of a [n, n] is put below it, too.
struct MirrorArguments {
  Address<float> a;
  uint32_t n;
};

/// rowDots: out [rows] = Σ_j a · b of every row, in float64.
struct RowDotsArguments {
  Address<const float> a, b;  // [rows, width]
  Address<double> out;
  uint32_t width;
};

/// Columns factored at a time (slim::factorUpper).
constexpr uint32_t kFactorBlock = 64;
/// Rows of a panel that a CTA solves for, and columns that it multiplies.
constexpr uint32_t kPanelRows = 32;

/// dampUpper: a [n, n] = scale · h, `added` to its diagonal, dead channels' being 1; zeros below the
/// diagonal.
struct DampArguments {
  Address<const float> h;
  Address<float> a;
  double added;
  uint32_t n;
  float scale;
};

/// clearLower, factorDiagonal, solvePanel: the parts of A = P Pᵀ, in place in a [n, n]. `begin` is the
/// block's first row.
struct FactorArguments {
  Address<float> a;
  Address<double> block;  // P of the diagonal block, by columns [kFactorBlock, kFactorBlock]
  Address<uint32_t>
      failed;  // set where a pivot is not positive and finite: the kernels that follow do nothing
  uint32_t n, begin, size;
};

/// invertDiagonals, finishInverse: the parts of U = P⁻¹, in place in a [n, n].
struct InvertArguments {
  Address<float> a;
  Address<double> inverses;      // of the diagonal blocks, from the last on, by columns
  Address<const float> product;  // finishInverse: P of the rows right of the block times U, [size, rest]
  uint32_t n, begin, size, rest;
};

}  // namespace slim::cuda
