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

}  // namespace slim
