// Arguments of small operations on whole matrices.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// addScaled: y += alpha · x.
struct AddScaledArguments {
  Address<const float> x;
  Address<float> y;
  uint64_t count;
  float alpha;
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
