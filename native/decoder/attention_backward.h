// The backward pass of causal self-attention, scores recomputed.
#pragma once
#include <vector>

#include "decoder/attention.h"

namespace slim {

/// Whole sequences (tile.start is 0). `qkv` [tile tokens][qkvWidth] comes from prepareHeads, `out` and
/// `outGradients` = ∂L/∂out [tile tokens][queryWidth] are attention's. `gradients` [tile tokens][qkvWidth]
/// become ∂L/∂qkv. Parallel over sequences and key heads: the query heads that share a key head add up in
/// their order. `scratch` holds one buffer a thread.
void attentionBackward(ThreadPool& pool, const BlockSpec& spec, const TokenTile& tile, const float* qkv,
                       const float* out, const float* outGradients, float* gradients,
                       std::vector<FloatBuffer>& scratch);

/// The backward pass of prepareHeads: gradients by what it made become gradients by the projected values, in
/// place. `projected` are those values [tile tokens][qkvWidth]; only the norms look at them.
void prepareHeadsBackward(ThreadPool& pool, const BlockSpec& spec, const Norm& queryNorm, const Norm& keyNorm,
                          const RotaryTable& rotary, const TokenTile& tile, const float* projected,
                          float* gradients);

}  // namespace slim
