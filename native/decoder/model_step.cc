// Generation: new tokens of several sequences in one pass over the weights.
#include <algorithm>

#include "decoder/model.h"

namespace slim {
namespace {

// Longer prompts take several passes: a pass's values stay within some MB, and packing or decoding the
// weights is a few per cent of a product with so many rows.
constexpr size_t kPassTokens = 512;

}  // namespace

/// Memory of one step at a time, kept from step to step.
struct DecoderModel::StepContext {
  StepScratch scratch;
  std::vector<RotaryTable> rotaries;
  FloatBuffer states, last, logits;
  std::vector<SamplerScratch> samplers;  // one a thread
};

/// What one pass runs: rows of some sequences.
struct DecoderModel::StepPass {
  std::vector<int32_t> ids;
  std::vector<size_t> positions;
  std::vector<SequenceChunk> chunks;
};

DecoderModel::DecoderModel() = default;
DecoderModel::~DecoderModel() = default;

void DecoderModel::findRotaries() {
  for (const auto& block : parts_.blocks) {
    const RotarySpec& spec = block->spec().rotary;
    const auto found = std::find(rotaries_.begin(), rotaries_.end(), spec);
    rotaryOf_.push_back(size_t(found - rotaries_.begin()));
    if (found == rotaries_.end()) rotaries_.push_back(spec);
  }
}

std::unique_ptr<DecoderModel::StepContext> DecoderModel::takeContext() const {
  std::lock_guard lock(contextsMutex_);
  if (contexts_.empty()) return std::make_unique<StepContext>();
  auto context = std::move(contexts_.back());
  contexts_.pop_back();
  return context;
}

Status DecoderModel::makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<SequenceCache>& out) const {
  std::vector<const BlockSpec*> specs;
  for (const auto& block : parts_.blocks) specs.push_back(&block->spec());
  std::shared_ptr<KvCache> cache;
  SLIM_RETURN_IF_ERROR(KvCache::make(specs, capacity, dtype, cache));
  out = std::move(cache);
  return Status::success();
}

Status DecoderModel::runPass(const StepPass& pass, StepContext& context, ThreadPool& pool,
                             const CancelFlag& cancelled) const {
  const size_t rows = pass.ids.size();
  float* states = context.states.reserve(rows * hidden());
  constexpr size_t kRows = 8;
  pool.parallelFor((rows + kRows - 1) / kRows, [&](size_t task, int) {
    std::vector<float> position(parts_.embedding.positions ? hidden() : 0);
    for (size_t r = task * kRows; r < std::min(rows, (task + 1) * kRows); ++r)
      parts_.embedding.embedToken(pass.ids[r], pass.positions[r], states + r * hidden(), position.data());
  });
  context.rotaries.resize(rotaries_.size());
  for (size_t i = 0; i < rotaries_.size(); ++i) context.rotaries[i].fill(rotaries_[i], pass.positions, pool);
  for (size_t i = 0; i < parts_.blocks.size(); ++i) {
    if (cancelled.load(std::memory_order_relaxed)) return Status::aborted();
    parts_.blocks[i]->step(states, rows, pass.chunks, i, context.rotaries[rotaryOf_[i]], context.scratch,
                           pool);
  }
  return Status::success();
}

Status DecoderModel::step(const std::vector<StepSequence>& sequences,
                          std::vector<std::optional<SampledToken>>& out, ThreadPool& pool,
                          const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkStep(sequences));
  const auto cacheOf = [](const StepSequence& sequence) { return static_cast<KvCache*>(sequence.cache); };
  for (const StepSequence& sequence : sequences)
    cacheOf(sequence)->reserve(sequence.cache->length() + sequence.ids.size());
  SLIM_RETURN_IF_ERROR(prepare(pool, cancelled));
  std::unique_ptr<StepContext> context = takeContext();
  context->scratch.block.int8 = parts_.int8;
  context->scratch.block.activations.nextOf = &nextOf_;
  TokenDraw draw(sequences, out);
  float* last = context->last.reserve(draw.count() * hidden());

  for (size_t s = 0, done = 0, lasts = 0; s < sequences.size();) {
    StepPass pass;
    std::vector<size_t> lastRows;
    while (s < sequences.size() && pass.ids.size() < kPassTokens) {
      const StepSequence& sequence = sequences[s];
      SequenceChunk chunk{cacheOf(sequence), pass.ids.size(), 0, sequence.cache->length() + done};
      chunk.length = std::min(sequence.ids.size() - done, kPassTokens - pass.ids.size());
      pass.chunks.push_back(chunk);
      for (size_t i = 0; i < chunk.length; ++i) {
        pass.ids.push_back(sequence.ids[done + i]);
        pass.positions.push_back(chunk.start + i);
      }
      done += chunk.length;
      if (done < sequence.ids.size()) continue;
      if (sequence.sampler) lastRows.push_back(pass.ids.size() - 1);
      done = 0;
      ++s;
    }
    SLIM_RETURN_IF_ERROR(runPass(pass, *context, pool, cancelled));
    for (const size_t row : lastRows)
      std::copy_n(context->states.data() + row * hidden(), hidden(), last + lasts++ * hidden());
  }
  SLIM_RETURN_IF_ERROR(sampleAll(draw, *context, pool, cancelled));
  for (const StepSequence& sequence : sequences) sequence.cache->advance(sequence.ids.size());
  std::lock_guard lock(contextsMutex_);
  contexts_.push_back(std::move(context));
  return Status::success();
}

Status DecoderModel::sampleAll(TokenDraw& draw, StepContext& context, ThreadPool& pool,
                               const CancelFlag& cancelled) const {
  const size_t most = std::max<size_t>(1, kLogitBytes / (vocab() * sizeof(float)));
  float* last = context.last.data();
  if (finalNorm_) finalNorm_.apply(pool, draw.count(), last, hidden(), last, hidden());
  float* logits = context.logits.reserve(std::min(most, draw.count()) * vocab());
  for (size_t first = 0; first < draw.count(); first += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t count = std::min(most, draw.count() - first);
    project(pool, count, last + first * hidden(), logits, context.scratch.block.activations);
    SLIM_RETURN_IF_ERROR(draw.draw(logits, vocab(), first, count, pool, context.samplers));
  }
  if (cancelled.load()) return Status::aborted();
  draw.commit();
  return Status::success();
}

}  // namespace slim
