// The whole decoder on the CPU: embedding, blocks, final norm, head; and generation with a cache.
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
#include "decoder/language_model.h"
#include "decoder/linear.h"
#include "decoder/norm.h"

namespace slim {

struct ModelParts {
  Embedding embedding;
  std::vector<std::shared_ptr<DecoderBlock>> blocks;
  TensorPtr finalNormWeight, finalNormBias;  // null: none; of the kind of the blocks' norms
  Weight head;                               // [vocab, hidden]
  float logitSoftcap = 0.0f;
  bool int8 = false;  // packed matrices take their inputs in int8
};

class DecoderModel final : public LanguageModel {
 public:
  DecoderModel();
  ~DecoderModel() override;
  static Status make(ModelParts parts, std::shared_ptr<DecoderModel>& out);

  size_t vocab() const override { return parts_.embedding.vocab(); }
  size_t positionLimit() const override { return parts_.embedding.positionLimit(); }
  size_t hidden() const { return parts_.embedding.hidden(); }

  /// Puts packed matrices into the order of the int8 kernels, unless activations are float32; otherwise the
  /// first pass does.
  Status prepare(ThreadPool& pool, const CancelFlag& cancelled) const override;
  Status beginPass(const std::vector<int32_t>& ids, std::unique_ptr<LogitsPass>& out, ThreadPool& pool,
                   const CancelFlag& cancelled) const override;
  Status makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<SequenceCache>& out) const override;
  Status step(const std::vector<StepSequence>& sequences, std::vector<std::optional<SampledToken>>& out,
              ThreadPool& pool, const CancelFlag& cancelled) const override;

 private:
  class FinalStates;
  NextProducts orderCalls() const;
  /// logits [tokens, vocab] of final states, softcapped.
  void project(ThreadPool& pool, size_t tokens, const float* states, float* logits,
               IntegerInput& activations) const;

  // model_step.cc
  struct StepContext;
  struct StepPass;
  void findRotaries();
  Status runPass(const StepPass& pass, StepContext& context, ThreadPool& pool,
                 const CancelFlag& cancelled) const;
  Status sampleAll(TokenDraw& draw, StepContext& context, ThreadPool& pool,
                   const CancelFlag& cancelled) const;
  std::unique_ptr<StepContext> takeContext() const;

  ModelParts parts_;
  Norm finalNorm_;
  mutable std::mutex preparing_;
  mutable std::atomic<bool> prepared_{false};
  mutable Linear head_;
  mutable NextProducts nextOf_;  // set when prepared
  // The rotary specs of the blocks, each once, and which of them a block has.
  std::vector<RotarySpec> rotaries_;
  std::vector<size_t> rotaryOf_;

  // Memory of steps that are not running.
  mutable std::mutex contextsMutex_;
  mutable std::vector<std::unique_ptr<StepContext>> contexts_;
};

}  // namespace slim
