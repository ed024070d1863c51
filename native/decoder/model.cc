#include "decoder/model.h"

#include <algorithm>
#include <cmath>

namespace slim {
namespace {

// Logits of a tile of tokens take about this much; vocabularies reach 256k, so never tokens x vocab of a
// window.
constexpr size_t kLogitBytes = size_t(64) << 20;

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

Status DecoderModel::make(ModelParts parts, std::shared_ptr<DecoderModel>& out) {
  if (parts.blocks.empty()) return Status::invalidArgument("blocks", "at least one block", "none");
  const BlockSpec& spec = parts.blocks.front()->spec();
  const size_t hidden = spec.hiddenSize;
  for (size_t i = 0; i < parts.blocks.size(); ++i)
    if (parts.blocks[i]->spec().hiddenSize != hidden)
      return Status::invalidArgument("blocks[" + std::to_string(i) + "]",
                                     "hidden size " + std::to_string(hidden),
                                     std::to_string(parts.blocks[i]->spec().hiddenSize));
  SLIM_RETURN_IF_ERROR(parts.embedding.check());
  if (parts.embedding.hidden() != hidden)
    return Status::invalidArgument("embedding", "rows of " + std::to_string(hidden) + " elements",
                                   std::to_string(parts.embedding.hidden()));
  SLIM_RETURN_IF_ERROR(parts.head.check("head", parts.embedding.vocab(), hidden));
  auto model = std::make_shared<DecoderModel>();
  if (parts.finalNormWeight) {
    std::vector<float> weight, bias;
    SLIM_RETURN_IF_ERROR(readVector(parts.finalNormWeight, "finalNorm.weight", hidden, weight));
    if (parts.finalNormBias)
      SLIM_RETURN_IF_ERROR(readVector(parts.finalNormBias, "finalNorm.bias", hidden, bias));
    model->finalNorm_ = Norm(spec.norm, std::move(weight), std::move(bias));
  }
  model->head_.weight = parts.head;
  model->parts_ = std::move(parts);
  model->findRotaries();
  out = std::move(model);
  return Status::success();
}

Status DecoderModel::prepare(ThreadPool& pool, const CancelFlag& cancelled) const {
  if (!parts_.int8 || prepared_.load(std::memory_order_acquire)) return Status::success();
  std::lock_guard lock(preparing_);
  for (const auto& block : parts_.blocks) SLIM_RETURN_IF_ERROR(block->interleave(pool, cancelled));
  SLIM_RETURN_IF_ERROR(head_.interleave(pool, cancelled));
  prepared_.store(true, std::memory_order_release);
  return Status::success();
}

Status DecoderModel::finalStates(const std::vector<int32_t>& ids, FloatBuffer& states, ThreadPool& pool,
                                 const CancelFlag& cancelled) const {
  float* x = states.reserve(ids.size() * hidden());
  SLIM_RETURN_IF_ERROR(parts_.embedding.embed(ids, ids.size(), 0, x, pool, cancelled));
  SLIM_RETURN_IF_ERROR(prepare(pool, cancelled));
  BlockScratch scratch;
  scratch.int8 = parts_.int8;
  for (const auto& block : parts_.blocks)
    SLIM_RETURN_IF_ERROR(block->forward(x, ids.size(), ids.size(), nullptr, scratch, pool, cancelled));
  if (finalNorm_) finalNorm_.apply(pool, ids.size(), x, hidden(), x, hidden());
  return Status::success();
}

void DecoderModel::project(ThreadPool& pool, size_t tokens, const float* states, float* logits,
                           IntegerInput& activations) const {
  const LinearOutput out{&head_, logits, vocab()};
  applyLinears(pool, tokens, states, hidden(), {&out, 1}, parts_.int8 ? &activations : nullptr, true);
  const float cap = parts_.logitSoftcap;
  if (cap == 0) return;
  pool.parallelFor(tokens, [&](size_t t, int) {
    float* row = logits + t * vocab();
    for (size_t i = 0; i < vocab(); ++i) row[i] /= cap;
    decoderKernels().tanh(row, vocab());
    for (size_t i = 0; i < vocab(); ++i) row[i] *= cap;
  });
}

Status DecoderModel::logits(const std::vector<int32_t>& ids, float* out, ThreadPool& pool,
                            const CancelFlag& cancelled) const {
  FloatBuffer states;
  IntegerInput activations;
  SLIM_RETURN_IF_ERROR(finalStates(ids, states, pool, cancelled));
  const size_t most = logitTile(vocab());
  for (size_t t = 0; t < ids.size(); t += most) {
    if (cancelled.load()) return Status::aborted();
    project(pool, std::min(most, ids.size() - t), states.data() + t * hidden(), out + t * vocab(),
            activations);
  }
  return Status::success();
}

Status DecoderModel::tokenNll(const std::vector<int32_t>& ids, std::vector<float>& out, ThreadPool& pool,
                              const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(parts_.embedding.checkIds(ids, 2));
  FloatBuffer states, tile;
  IntegerInput activations;
  SLIM_RETURN_IF_ERROR(finalStates(ids, states, pool, cancelled));
  const size_t count = ids.size() - 1, most = std::min(count, logitTile(vocab()));
  out.resize(count);
  float* logits = tile.reserve(most * vocab());
  for (size_t t = 0; t < count; t += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t tokens = std::min(most, count - t);
    project(pool, tokens, states.data() + t * hidden(), logits, activations);
    pool.parallelFor(tokens, [&](size_t i, int) {
      const float* row = logits + i * vocab();
      out[t + i] = float(logSumExp(row, vocab()).value - row[ids[t + i + 1]]);
    });
  }
  return Status::success();
}

Status DecoderModel::compare(const DecoderModel& reference, const std::vector<int32_t>& ids, Comparison& out,
                             ThreadPool& pool, const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(parts_.embedding.checkIds(ids, 2));
  if (reference.vocab() != vocab())
    return Status::invalidArgument("reference", "a model with " + std::to_string(vocab()) + " tokens",
                                   std::to_string(reference.vocab()));
  FloatBuffer states, referenceStates, tile, referenceTile;
  IntegerInput activations;
  SLIM_RETURN_IF_ERROR(finalStates(ids, states, pool, cancelled));
  SLIM_RETURN_IF_ERROR(reference.finalStates(ids, referenceStates, pool, cancelled));
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
    project(pool, tokens, states.data() + t * hidden(), logits, activations);
    reference.project(pool, tokens, referenceStates.data() + t * reference.hidden(), referenceLogits,
                      activations);
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

}  // namespace slim
