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

/// multiply…: c [m, n] = alpha · a · bᵀ (+ c).
struct MultiplyArguments {
  MultiplyOperand a, b;
  Address<float> c;
  uint64_t ldc;
  uint32_t m, n, k;
  float alpha;
  uint32_t accumulate, upperOnly;
  uint32_t pairs;  // whether rows of c lie on 8-byte boundaries
};

}  // namespace slim::cuda
