// Products with packed matrices in integers: int8 activations times unsigned codes, exact sums over a
// segment, and one rounding to float32 for each segment.
#pragma once
#include <cstddef>
#include <span>

#include "core/thread_pool.h"
#include "cpu/interleaved_matrix.h"
#include "cpu/packed_activations.h"

namespace slim {

/// y [tokens, rows] = x · Wᵀ (+ bias) (+ y), row stride yStride.
struct PackedProduct {
  const InterleavedMatrix* matrix;
  float* y;
  size_t yStride;
  bool accumulate = false;
  const float* bias = nullptr;  // [rows]
};

/// Several matrices on one input x [tokens, cols], row stride xStride, in one parallel loop for every four;
/// all must be cut alike (same columns and group size), and no y may lie in x. `activations` is memory,
/// reused from call to call. The bits of y depend neither on the threads nor, for a token, on the other
/// tokens; AVX2, AVX-512 and NEON give the same. At the end of its share every thread asks for the beginning
/// of its share of `next`, the products of the call that is expected after this one; only their matrices are
/// looked at.
void multiplyPacked(ThreadPool& pool, size_t tokens, const float* x, size_t xStride,
                    std::span<const PackedProduct> products, PackedActivations& activations,
                    std::span<const PackedProduct> next = {});

}  // namespace slim
