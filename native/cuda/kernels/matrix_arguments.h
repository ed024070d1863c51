// Arguments of small operations on whole matrices.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// rowProducts: out [rows] = Σ_j a_rj · b_rj in float64.
struct RowProductsArguments {
  Address<const float> a, b;  // [rows, columns]
  Address<double> out;
  uint64_t columns;
};

/// addScaled: y = alpha · x + beta · y.
struct AddScaledArguments {
  Address<const float> x;
  Address<float> y;
  uint64_t count;
  float alpha, beta;
};

/// addToDiagonal: h [size, size] += value · I.
struct AddToDiagonalArguments {
  Address<float> h;
  uint32_t size;
  float value;
};

/// clearColumns: zeros in the columns of w [rows, columns] that are flagged.
struct ClearColumnsArguments {
  Address<float> w;
  Address<const uint8_t> flags;  // [columns]
  uint64_t rows;
  uint32_t columns;
};

}  // namespace slim::cuda
