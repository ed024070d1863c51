#include "decoder/language_model.h"

#include <algorithm>
#include <cmath>

#include "decoder/embedding.h"
#include "decoder/float_buffer.h"
#include "decoder/kernels.h"

namespace slim {
namespace {

size_t logitTile(size_t vocab) { return std::clamp<size_t>(kLogitBytes / (vocab * sizeof(float)), 64, 512); }

struct LogSum {
  float maximum;
  double value;  // ln Σ e^logit
};

LogSum logSumExp(const float* logits, size_t n) {
  const DecoderKernels& kernels = decoderKernels();
  const float maximum = kernels.maximum(logits, n);
  return {maximum, maximum + std::log(kernels.sumExp(logits, n, maximum))};
}

}  // namespace

Status LanguageModel::logits(const std::vector<int32_t>& ids, float* out, ThreadPool& pool,
                             const CancelFlag& cancelled) const {
  std::unique_ptr<LogitsPass> pass;
  SLIM_RETURN_IF_ERROR(beginPass(ids, pass, pool, cancelled));
  const size_t most = logitTile(vocab());
  for (size_t t = 0; t < ids.size(); t += most) {
    if (cancelled.load()) return Status::aborted();
    SLIM_RETURN_IF_ERROR(pass->read(t, std::min(most, ids.size() - t), out + t * vocab(), pool));
  }
  return Status::success();
}

Status LanguageModel::tokenNll(const std::vector<int32_t>& ids, std::vector<float>& out, ThreadPool& pool,
                               const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkTokenIds(ids, vocab(), 2));
  FloatBuffer tile;
  std::unique_ptr<LogitsPass> pass;
  SLIM_RETURN_IF_ERROR(beginPass(ids, pass, pool, cancelled));
  const size_t count = ids.size() - 1, most = std::min(count, logitTile(vocab()));
  out.resize(count);
  float* logits = tile.reserve(most * vocab());
  for (size_t t = 0; t < count; t += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t tokens = std::min(most, count - t);
    SLIM_RETURN_IF_ERROR(pass->read(t, tokens, logits, pool));
    pool.parallelFor(tokens, [&](size_t i, int) {
      const float* row = logits + i * vocab();
      out[t + i] = float(logSumExp(row, vocab()).value - row[ids[t + i + 1]]);
    });
  }
  return Status::success();
}

Status LanguageModel::compare(const LanguageModel& reference, const std::vector<int32_t>& ids,
                              Comparison& out, ThreadPool& pool, const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkTokenIds(ids, vocab(), 2));
  if (reference.vocab() != vocab())
    return Status::invalidArgument("reference", "a model with " + std::to_string(vocab()) + " tokens",
                                   std::to_string(reference.vocab()));
  FloatBuffer tile, referenceTile;
  std::unique_ptr<LogitsPass> pass, referencePass;
  SLIM_RETURN_IF_ERROR(beginPass(ids, pass, pool, cancelled));
  SLIM_RETURN_IF_ERROR(reference.beginPass(ids, referencePass, pool, cancelled));
  const size_t count = ids.size() - 1, most = std::min(count, logitTile(vocab()));
  out.nll.resize(count);
  out.referenceNll.resize(count);
  out.kl.resize(count);
  out.agrees.resize(count);
  float* logits = tile.reserve(most * vocab());
  float* referenceLogits = referenceTile.reserve(most * vocab());
  for (size_t t = 0; t < count; t += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t tokens = std::min(most, count - t);
    SLIM_RETURN_IF_ERROR(pass->read(t, tokens, logits, pool));
    SLIM_RETURN_IF_ERROR(referencePass->read(t, tokens, referenceLogits, pool));
    pool.parallelFor(tokens, [&](size_t i, int) {
      const float* q = logits + i * vocab();
      const float* p = referenceLogits + i * vocab();
      const LogSum lq = logSumExp(q, vocab()), lp = logSumExp(p, vocab());
      out.nll[t + i] = float(lq.value - q[ids[t + i + 1]]);
      out.referenceNll[t + i] = float(lp.value - p[ids[t + i + 1]]);
      // KL(p ‖ q) = Σ p (ln p − ln q) = Σ p (logit_p − logit_q) − lse_p + lse_q
      const double difference =
          decoderKernels().sumExpDifference(p, q, vocab(), lp.maximum) * std::exp(lp.maximum - lp.value);
      out.kl[t + i] = float(std::max(0.0, difference - lp.value + lq.value));
      out.agrees[t + i] =
          std::find(q, q + vocab(), lq.maximum) - q == std::find(p, p + vocab(), lp.maximum) - p;
    });
  }
  return Status::success();
}

Status LanguageModel::checkStep(const std::vector<StepSequence>& sequences) const {
  if (sequences.empty()) return Status::invalidArgument("sequences", "at least one sequence", "none");
  for (size_t s = 0; s < sequences.size(); ++s) {
    const std::string name = "sequences[" + std::to_string(s) + "].ids";
    const SequenceCache& cache = *sequences[s].cache;
    const size_t count = sequences[s].ids.size(), left = cache.capacity() - cache.length();
    SLIM_RETURN_IF_ERROR(checkTokenIds(sequences[s].ids, vocab(), 1, name));
    if (count > left)
      return Status::invalidArgument(name,
                                     "at most " + std::to_string(left) + " token ids (the cache holds " +
                                         std::to_string(cache.length()) + " of " +
                                         std::to_string(cache.capacity()) + ")",
                                     std::to_string(count), "Make a cache with a larger capacity");
    if (cache.length() + count > positionLimit())
      return Status::invalidArgument(name,
                                     "at most the model's " + std::to_string(positionLimit()) + " positions",
                                     std::to_string(cache.length() + count), "Use shorter sequences");
  }
  return Status::success();
}

TokenDraw::TokenDraw(const std::vector<StepSequence>& sequences,
                     std::vector<std::optional<SampledToken>>& out)
    : sequences_(sequences), out_(out) {
  out.assign(sequences.size(), std::nullopt);
  for (size_t s = 0; s < sequences.size(); ++s) {
    if (!sequences[s].sampler) continue;
    sampled_.push_back(s);
    samplers_.push_back(*sequences[s].sampler);
  }
}

Status TokenDraw::draw(float* logits, size_t vocab, size_t first, size_t count, ThreadPool& pool,
                       std::vector<SamplerScratch>& scratch) {
  scratch.resize(std::max(scratch.size(), size_t(pool.threads())));
  std::vector<Status> status(count);
  pool.parallelFor(count, [&](size_t i, int thread) {
    SampledToken& token = out_[sampled_[first + i]].emplace();
    status[i] = samplers_[first + i].sample(logits + i * vocab, vocab, scratch[size_t(thread)], token);
  });
  for (size_t i = 0; i < count; ++i)
    if (!status[i].ok()) return about(std::move(status[i]), first + i);
  return Status::success();
}

Status TokenDraw::take(std::vector<std::optional<SampledToken>> drawn, size_t first) {
  for (size_t i = 0; i < drawn.size(); ++i) {
    if (!drawn[i]) return about(nonFiniteLogits(), first + i);
    samplers_[first + i].accept(drawn[i]->tokenId);
    out_[sampled_[first + i]] = std::move(drawn[i]);
  }
  return Status::success();
}

Status TokenDraw::about(Status status, size_t i) const {
  status.parameter = "sequences[" + std::to_string(sampled_[i]) + "]";
  return status;
}

void TokenDraw::commit() {
  for (size_t i = 0; i < sampled_.size(); ++i) *sequences_[sampled_[i]].sampler = std::move(samplers_[i]);
}

}  // namespace slim
