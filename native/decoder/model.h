// The whole decoder: embedding, blocks, final norm, head; logits, likelihoods, and generation with a cache.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "decoder/block.h"
#include "decoder/embedding.h"
#include "decoder/kv_cache.h"
#include "decoder/linear.h"
#include "decoder/norm.h"

namespace slim {

struct ModelParts {
  Embedding embedding;
  std::vector<std::shared_ptr<DecoderBlock>> blocks;
  TensorPtr finalNormWeight, finalNormBias;  // null: none; of the kind of the blocks' norms
  Weight head;                               // [vocab, hidden]
  float logitSoftcap = 0.0f;
};

struct Comparison {
  std::vector<float> nll, referenceNll, kl;  // one a position but the last
  std::vector<uint8_t> agrees;               // the same likeliest token
};

class DecoderModel {
 public:
  static Status make(ModelParts parts, std::shared_ptr<DecoderModel>& out);

  size_t vocab() const { return parts_.embedding.vocab(); }
  size_t hidden() const { return parts_.embedding.hidden(); }

  /// logits [ids, vocab] of one sequence.
  Status logits(const std::vector<int32_t>& ids, float* out, ThreadPool& pool,
                const CancelFlag& cancelled) const;
  /// −ln p(ids[t + 1] | ids[0 … t]): ids − 1 values.
  Status tokenNll(const std::vector<int32_t>& ids, std::vector<float>& out, ThreadPool& pool,
                  const CancelFlag& cancelled) const;
  /// Both models' tokenNll, KL(reference ‖ this) and whether the likeliest tokens agree.
  Status compare(const DecoderModel& reference, const std::vector<int32_t>& ids, Comparison& out,
                 ThreadPool& pool, const CancelFlag& cancelled) const;

  Status makeCache(size_t capacity, std::shared_ptr<KvCache>& out) const;
  /// Appends ids to the cached sequence; logits [vocab] after the last. The cache is unchanged on failure.
  Status step(KvCache& cache, const std::vector<int32_t>& ids, float* logits, ThreadPool& pool,
              const CancelFlag& cancelled) const;

 private:
  /// States after the final norm, [ids, hidden].
  Status finalStates(const std::vector<int32_t>& ids, FloatBuffer& states, ThreadPool& pool,
                     const CancelFlag& cancelled) const;
  /// logits [tokens, vocab] of final states, softcapped.
  void project(ThreadPool& pool, size_t tokens, const float* states, float* logits) const;

  ModelParts parts_;
  Norm finalNorm_;
};

}  // namespace slim
