// Generation: new tokens of several sequences in one pass over the weights.
#include <algorithm>

#include "decoder/model.h"

namespace slim {
namespace {

// Longer prompts take several passes: a pass's values stay within some MB, and packing or decoding the
// weights is a few per cent of a product with so many rows.
constexpr size_t kPassTokens = 512;
constexpr size_t kLogitBytes = size_t(64) << 20;  // of the sequences that are sampled together

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

Status DecoderModel::makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<KvCache>& out) const {
  std::vector<const BlockSpec*> specs;
  for (const auto& block : parts_.blocks) specs.push_back(&block->spec());
  return KvCache::make(specs, capacity, dtype, out);
}

Status DecoderModel::checkStep(const std::vector<StepSequence>& sequences) const {
  if (sequences.empty()) return Status::invalidArgument("sequences", "at least one sequence", "none");
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::string name = "sequences[" + std::to_string(s) + "].ids";
    const KvCache& cache = *sequences[s].cache;
    const size_t count = sequences[s].ids.size(), left = cache.capacity() - cache.length();
    SLIM_RETURN_IF_ERROR(parts_.embedding.checkIds(sequences[s].ids, 1, name));
    if (count > left)
      return Status::invalidArgument(name,
                                     "at most " + std::to_string(left) + " token ids (the cache holds " +
                                         std::to_string(cache.length()) + " of " +
                                         std::to_string(cache.capacity()) + ")",
                                     std::to_string(count), "Make a cache with a larger capacity");
    if (cache.length() + count > parts_.embedding.positionLimit())
      return Status::invalidArgument(
          name, "at most the model's " + std::to_string(parts_.embedding.positionLimit()) + " positions",
          std::to_string(cache.length() + count), "Use shorter sequences");
  }
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
  for (const StepSequence& sequence : sequences)
    sequence.cache->reserve(sequence.cache->length() + sequence.ids.size());
  SLIM_RETURN_IF_ERROR(prepare(pool, cancelled));
  std::unique_ptr<StepContext> context = takeContext();
  context->scratch.block.int8 = parts_.int8;
  std::vector<size_t> sampled;
  for (size_t s = 0; s < sequences.size(); ++s)
    if (sequences[s].sampler) sampled.push_back(s);
  float* last = context->last.reserve(sampled.size() * hidden());

  for (size_t s = 0, done = 0, lasts = 0; s < sequences.size();) {
    StepPass pass;
    std::vector<size_t> lastRows;
    while (s < sequences.size() && pass.ids.size() < kPassTokens) {
      const StepSequence& sequence = sequences[s];
      SequenceChunk chunk{sequence.cache, pass.ids.size(), 0, sequence.cache->length() + done};
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
  SLIM_RETURN_IF_ERROR(sampleAll(sequences, sampled, *context, out, pool, cancelled));
  for (const StepSequence& sequence : sequences) sequence.cache->advance(sequence.ids.size());
  std::lock_guard lock(contextsMutex_);
  contexts_.push_back(std::move(context));
  return Status::success();
}

Status DecoderModel::sampleAll(const std::vector<StepSequence>& sequences, const std::vector<size_t>& sampled,
                               StepContext& context, std::vector<std::optional<SampledToken>>& out,
                               ThreadPool& pool, const CancelFlag& cancelled) const {
  out.assign(sequences.size(), std::nullopt);
  const size_t most = std::max<size_t>(1, kLogitBytes / (vocab() * sizeof(float)));
  float* last = context.last.data();
  if (finalNorm_) finalNorm_.apply(pool, sampled.size(), last, hidden(), last, hidden());
  float* logits = context.logits.reserve(std::min(most, sampled.size()) * vocab());
  context.samplers.resize(std::max(context.samplers.size(), size_t(pool.threads())));
  std::vector<Sampler> samplers;  // copies: none has moved on unless all can
  for (const size_t s : sampled) samplers.push_back(*sequences[s].sampler);
  std::vector<Status> status(sampled.size());
  for (size_t first = 0; first < sampled.size(); first += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t count = std::min(most, sampled.size() - first);
    project(pool, count, last + first * hidden(), logits, context.scratch.block.activations);
    pool.parallelFor(count, [&](size_t i, int thread) {
      SampledToken& token = out[sampled[first + i]].emplace();
      status[first + i] =
          samplers[first + i].sample(logits + i * vocab(), vocab(), context.samplers[size_t(thread)], token);
    });
  }
  for (size_t i = 0; i < sampled.size(); ++i) {
    if (status[i].ok()) continue;
    status[i].parameter = "sequences[" + std::to_string(sampled[i]) + "]";
    return status[i];
  }
  if (cancelled.load()) return Status::aborted();
  for (size_t i = 0; i < sampled.size(); ++i) *sequences[sampled[i]].sampler = std::move(samplers[i]);
  return Status::success();
}

}  // namespace slim
