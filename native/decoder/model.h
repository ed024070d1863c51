// The whole decoder: embedding, blocks, final norm, head; logits, likelihoods, and generation with a cache.
#pragma once
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "decoder/block.h"
#include "decoder/embedding.h"
#include "decoder/kv_cache.h"
#include "decoder/linear.h"
#include "decoder/norm.h"
#include "decoder/sampler.h"

namespace slim {

struct ModelParts {
  Embedding embedding;
  std::vector<std::shared_ptr<DecoderBlock>> blocks;
  TensorPtr finalNormWeight, finalNormBias;  // null: none; of the kind of the blocks' norms
  Weight head;                               // [vocab, hidden]
  float logitSoftcap = 0.0f;
  bool int8 = false;  // packed matrices take their inputs in int8
};

struct Comparison {
  std::vector<float> nll, referenceNll, kl;  // one a position but the last
  std::vector<uint8_t> agrees;               // the same likeliest token
};

/// A part of a step: new tokens of one sequence.
struct StepSequence {
  KvCache* cache = nullptr;
  std::vector<int32_t> ids;
  Sampler* sampler = nullptr;  // null: no next token is drawn
};

class DecoderModel {
 public:
  DecoderModel();
  ~DecoderModel();
  static Status make(ModelParts parts, std::shared_ptr<DecoderModel>& out);

  size_t vocab() const { return parts_.embedding.vocab(); }
  size_t hidden() const { return parts_.embedding.hidden(); }

  /// Puts packed matrices into the order of the int8 kernels, unless activations are float32; otherwise the
  /// first pass does.
  Status prepare(ThreadPool& pool, const CancelFlag& cancelled) const;
  /// logits [ids, vocab] of one sequence.
  Status logits(const std::vector<int32_t>& ids, float* out, ThreadPool& pool,
                const CancelFlag& cancelled) const;
  /// −ln p(ids[t + 1] | ids[0 … t]): ids − 1 values.
  Status tokenNll(const std::vector<int32_t>& ids, std::vector<float>& out, ThreadPool& pool,
                  const CancelFlag& cancelled) const;
  /// Both models' tokenNll, KL(reference ‖ this) and whether the likeliest tokens agree.
  Status compare(const DecoderModel& reference, const std::vector<int32_t>& ids, Comparison& out,
                 ThreadPool& pool, const CancelFlag& cancelled) const;

  Status makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<KvCache>& out) const;
  /// Appends every sequence's ids to its cache in one pass over the weights, and draws the next token of
  /// those with a sampler. Unless it succeeds, caches and samplers stay as they were. Steps on different
  /// caches may run at the same time.
  Status step(const std::vector<StepSequence>& sequences, std::vector<std::optional<SampledToken>>& out,
              ThreadPool& pool, const CancelFlag& cancelled) const;

 private:
  /// States after the final norm, [ids, hidden].
  Status finalStates(const std::vector<int32_t>& ids, FloatBuffer& states, ThreadPool& pool,
                     const CancelFlag& cancelled) const;
  /// logits [tokens, vocab] of final states, softcapped.
  void project(ThreadPool& pool, size_t tokens, const float* states, float* logits,
               IntegerInput& activations) const;

  // model_step.cc
  struct StepContext;
  struct StepPass;
  void findRotaries();
  Status checkStep(const std::vector<StepSequence>& sequences) const;
  Status runPass(const StepPass& pass, StepContext& context, ThreadPool& pool,
                 const CancelFlag& cancelled) const;
  Status sampleAll(const std::vector<StepSequence>& sequences, const std::vector<size_t>& sampled,
                   StepContext& context, std::vector<std::optional<SampledToken>>& out, ThreadPool& pool,
                   const CancelFlag& cancelled) const;
  std::unique_ptr<StepContext> takeContext() const;

  ModelParts parts_;
  Norm finalNorm_;
  mutable std::mutex preparing_;
  mutable std::atomic<bool> prepared_{false};
  mutable Linear head_;
  // The rotary specs of the blocks, each once, and which of them a block has.
  std::vector<RotarySpec> rotaries_;
  std::vector<size_t> rotaryOf_;

  // Memory of steps that are not running.
  mutable std::mutex contextsMutex_;
  mutable std::vector<std::unique_ptr<StepContext>> contexts_;
};

}  // namespace slim
