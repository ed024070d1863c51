// Attention of new tokens of several sequences over their KV caches.
#pragma once
#include <atomic>
#include <memory>
#include <vector>

#include "core/thread_pool.h"
#include "decoder/attention.h"
#include "decoder/kv_cache.h"

namespace slim {

/// Rows [firstRow, firstRow + length) of a batch of tokens: those of one sequence from position `start` on.
struct SequenceChunk {
  KvCache* cache = nullptr;
  size_t firstRow = 0, length = 0, start = 0;
};

/// Reused from block to block and from step to step.
class CachedAttentionScratch {
 public:
  /// A run of slices of cached positions that one thread takes, for some tokens and the heads of a key head.
  struct Task {
    size_t chunk, firstToken, tokens, kvHead, firstHead, heads, firstSlice, slices;
    size_t group;  // of the tasks whose results are put together
  };
  /// Tasks that cut the slices of the same rows among them.
  struct Group {
    size_t firstSlice, slices, firstPartial;
  };

 private:
  friend void cachedAttention(ThreadPool&, const BlockSpec&, size_t, const std::vector<SequenceChunk>&,
                              const float*, float*, CachedAttentionScratch&);
  void plan(const BlockSpec& spec, const std::vector<SequenceChunk>& chunks);

  std::vector<Task> tasks_;
  std::vector<Group> groups_;
  size_t partials_ = 0, work_ = 0;
  std::unique_ptr<std::atomic<size_t>[]> finished_;  // tasks of a group
  size_t finishedCapacity_ = 0;
  FloatBuffer partialSums_;
  std::vector<float> partialHighest_;
  std::vector<double> partialTotals_;
  std::vector<FloatBuffer> threads_;
};

/// Rows [rows][qkvWidth] of projected q, k, v, in place: q and k are normed per head (where the norms are
/// given) and turned (row r by the r-th position of `rotary`), q is scaled; k and v are stored in the caches.
void prepareCachedHeads(ThreadPool& pool, const BlockSpec& spec, const Norm& queryNorm, const Norm& keyNorm,
                        const RotaryTable& rotary, size_t block, const std::vector<SequenceChunk>& chunks,
                        float* qkv);

/// out [rows][queryWidth] = softmax(q · K) V for rows from prepareCachedHeads. The bits of a row depend on
/// its sequence alone, not on the other rows or the threads.
void cachedAttention(ThreadPool& pool, const BlockSpec& spec, size_t block,
                     const std::vector<SequenceChunk>& chunks, const float* qkv, float* out,
                     CachedAttentionScratch& scratch);

}  // namespace slim
