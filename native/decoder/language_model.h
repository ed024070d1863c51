// A model that gives logits, likelihoods and next tokens, wherever it runs: DecoderModel on the CPU,
// cuda::DeviceModel on a GPU.
#pragma once
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "core/thread_pool.h"
#include "decoder/sampler.h"
#include "decoder/sequence_cache.h"

namespace slim {

struct Comparison {
  std::vector<float> nll, referenceNll, kl;  // one a position but the last
  std::vector<uint8_t> agrees;               // the same likeliest token
};

/// A part of a step: new tokens of one sequence.
struct StepSequence {
  SequenceCache* cache = nullptr;  // of the model that steps
  std::vector<int32_t> ids;
  Sampler* sampler = nullptr;  // null: no next token is drawn
};

/// The states after the last block of one sequence, from which logits are read some at a time: vocabularies
/// reach 256k, so logits of a whole window are never kept.
class LogitsPass {
 public:
  virtual ~LogitsPass() = default;
  /// logits [count, vocab] of the tokens from `first` on.
  virtual Status read(size_t first, size_t count, float* out, ThreadPool& pool) = 0;
};

class LanguageModel {
 public:
  LanguageModel() = default;
  virtual ~LanguageModel() = default;
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  virtual size_t vocab() const = 0;
  /// How many positions there are: without learned ones, no end.
  virtual size_t positionLimit() const = 0;

  /// Makes at once what the first pass would otherwise make.
  virtual Status prepare(ThreadPool& pool, const CancelFlag& cancelled) const = 0;
  virtual Status beginPass(const std::vector<int32_t>& ids, std::unique_ptr<LogitsPass>& out,
                           ThreadPool& pool, const CancelFlag& cancelled) const = 0;
  virtual Status makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<SequenceCache>& out) const = 0;
  /// Appends every sequence's ids to its cache in one pass over the weights, and draws the next token of
  /// those with a sampler. Unless it succeeds, caches and samplers stay as they were. Steps on different
  /// caches may be asked for at the same time.
  virtual Status step(const std::vector<StepSequence>& sequences,
                      std::vector<std::optional<SampledToken>>& out, ThreadPool& pool,
                      const CancelFlag& cancelled) const = 0;

  /// logits [ids, vocab] of one sequence.
  Status logits(const std::vector<int32_t>& ids, float* out, ThreadPool& pool,
                const CancelFlag& cancelled) const;
  /// −ln p(ids[t + 1] | ids[0 … t]): ids − 1 values.
  Status tokenNll(const std::vector<int32_t>& ids, std::vector<float>& out, ThreadPool& pool,
                  const CancelFlag& cancelled) const;
  /// Both models' tokenNll, KL(reference ‖ this) and whether the likeliest tokens agree.
  Status compare(const LanguageModel& reference, const std::vector<int32_t>& ids, Comparison& out,
                 ThreadPool& pool, const CancelFlag& cancelled) const;

 protected:
  /// What every step asks of its sequences.
  Status checkStep(const std::vector<StepSequence>& sequences) const;
};

/// Draws next tokens from logits; samplers move on at the end, all or none.
class TokenDraw {
 public:
  /// `out` gets a place for every sequence.
  TokenDraw(const std::vector<StepSequence>& sequences, std::vector<std::optional<SampledToken>>& out);

  /// Sequences with a sampler.
  size_t count() const { return sampled_.size(); }
  /// Of the i-th of those.
  Sampler& sampler(size_t i) { return samplers_[i]; }
  /// From the logits [count, vocab] of those from the `first`-th on. `scratch` holds one a thread.
  Status draw(float* logits, size_t vocab, size_t first, size_t count, ThreadPool& pool,
              std::vector<SamplerScratch>& scratch);
  /// Takes what was drawn elsewhere for those from the `first`-th on: tokens, which their samplers then
  /// accept, or none where the logits are not finite.
  Status take(std::vector<std::optional<SampledToken>> drawn, size_t first);
  void commit();

 private:
  Status about(Status status, size_t i) const;

  const std::vector<StepSequence>& sequences_;
  std::vector<std::optional<SampledToken>>& out_;
  std::vector<size_t> sampled_;
  std::vector<Sampler> samplers_;  // copies: none has moved on unless all can
};

/// Of the logits that are held at a time.
constexpr size_t kLogitBytes = size_t(64) << 20;

}  // namespace slim
