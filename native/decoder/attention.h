// Causal self-attention: grouped queries, sliding window, softcapped scores.
#pragma once
#include <vector>

#include "core/thread_pool.h"
#include "decoder/block_spec.h"
#include "decoder/float_buffer.h"
#include "decoder/kernels.h"
#include "decoder/key_values.h"
#include "decoder/norm.h"
#include "decoder/rotary.h"

namespace slim {

/// Consecutive tokens of some sequences: `length` tokens of each, from position `start`, one sequence after
/// the other.
struct TokenTile {
  size_t sequences = 1, length = 0, start = 0;

  size_t tokens() const { return sequences * length; }
};

/// Where the heads of one token lie in its row of projected values.
struct HeadOffsets {
  explicit HeadOffsets(const BlockSpec& spec) : spec_(spec), perHead_(spec.qkvLayout == QkvLayout::PerHead) {}

  size_t query(size_t head) const { return (perHead_ ? 3 * head : head) * spec_.headDim; }
  size_t key(size_t head) const { return (perHead_ ? 3 * head + 1 : spec_.heads + head) * spec_.headDim; }
  size_t value(size_t head) const {
    return (perHead_ ? 3 * head + 2 : spec_.heads + spec_.kvHeads + head) * spec_.headDim;
  }

 private:
  const BlockSpec& spec_;
  const bool perHead_;
};

/// Rows [tile tokens][qkvWidth] of projected q, k, v: q and k are normed per head (where the norms are given)
/// and turned, q is scaled, all in place; k and v are stored in `cache[sequence]`.
void prepareHeads(ThreadPool& pool, const BlockSpec& spec, const Norm& queryNorm, const Norm& keyNorm,
                  const RotaryTable& rotary, const TokenTile& tile, float* qkv, KeyValues* cache);

/// out [tile tokens][queryWidth] = softmax(q · K) V for q from prepareHeads. Parallel over sequences, heads
/// and query tiles. `scratch` holds one buffer a thread.
void attention(ThreadPool& pool, const BlockSpec& spec, const TokenTile& tile, const float* qkv,
               const KeyValues* cache, float* out, std::vector<FloatBuffer>& scratch);

}  // namespace slim
