// The nonlinearity of the MLP.
#pragma once
#include "core/thread_pool.h"
#include "decoder/block_spec.h"

namespace slim {

/// In place on n floats.
void activate(Activation activation, float* x, size_t n);

/// Rows [rows, width]: x = act(x), or with `up` (the same stride) x = act(x) ∘ up.
void activateRows(ThreadPool& pool, Activation activation, size_t rows, size_t width, float* x,
                  const float* up, size_t stride);

/// x becomes the derivative at x.
void activationGradient(Activation activation, float* x, size_t n);

/// Rows [rows, width] of what activateRows was given. The last `width` of a row of `gradients` (the same
/// stride) come as ∂L/∂ of its result; gradients leave as ∂L/∂x, with `up` as [∂L/∂x, ∂L/∂up].
void activateRowsBackward(ThreadPool& pool, Activation activation, size_t rows, size_t width, const float* x,
                          const float* up, float* gradients, size_t stride);

}  // namespace slim
