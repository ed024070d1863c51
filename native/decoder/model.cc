#include "decoder/model.h"

#include <algorithm>

namespace slim {

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
  if (prepared_.load(std::memory_order_relaxed)) return Status::success();
  for (const auto& block : parts_.blocks) SLIM_RETURN_IF_ERROR(block->interleave(pool, cancelled));
  SLIM_RETURN_IF_ERROR(head_.interleave(pool, cancelled));
  nextOf_ = orderCalls();
  prepared_.store(true, std::memory_order_release);
  return Status::success();
}

// Of every call, the layers that applyLinears multiplies at once, in integers: those cut like the first of
// them. The head is followed by the first block, of the next token.
NextProducts DecoderModel::orderCalls() const {
  std::vector<std::vector<const Linear*>> calls;
  for (const auto& block : parts_.blocks)
    for (const auto& call : block->calls()) calls.push_back(call);
  calls.push_back({&head_});
  for (auto& call : calls) {
    std::erase_if(call, [](const Linear* linear) { return !linear->interleaved; });
    if (call.empty()) continue;
    const Segments cut = call[0]->interleaved->cut();
    std::erase_if(call, [&](const Linear* linear) { return !(linear->interleaved->cut() == cut); });
  }
  NextProducts order;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (calls[i].empty()) continue;
    auto& next = order[calls[i][0]];
    for (const Linear* linear : calls[(i + 1) % calls.size()])
      next.push_back({linear->interleaved.get(), nullptr, 0});
  }
  return order;
}

/// States [ids, hidden] after the final norm.
class DecoderModel::FinalStates final : public LogitsPass {
 public:
  explicit FinalStates(const DecoderModel& model) : model_(model) {}

  Status run(const std::vector<int32_t>& ids, ThreadPool& pool, const CancelFlag& cancelled) {
    const ModelParts& parts = model_.parts_;
    const size_t hidden = model_.hidden();
    float* x = states_.reserve(ids.size() * hidden);
    SLIM_RETURN_IF_ERROR(parts.embedding.embed(ids, ids.size(), 0, x, pool, cancelled));
    SLIM_RETURN_IF_ERROR(model_.prepare(pool, cancelled));
    BlockScratch scratch;
    scratch.int8 = parts.int8;
    for (const auto& block : parts.blocks)
      SLIM_RETURN_IF_ERROR(block->forward(x, ids.size(), ids.size(), nullptr, scratch, pool, cancelled));
    if (model_.finalNorm_) model_.finalNorm_.apply(pool, ids.size(), x, hidden, x, hidden);
    return Status::success();
  }

  Status read(size_t first, size_t count, float* out, ThreadPool& pool) override {
    model_.project(pool, count, states_.data() + first * model_.hidden(), out, activations_);
    return Status::success();
  }

 private:
  const DecoderModel& model_;
  FloatBuffer states_;
  IntegerInput activations_;
};

Status DecoderModel::beginPass(const std::vector<int32_t>& ids, std::unique_ptr<LogitsPass>& out,
                               ThreadPool& pool, const CancelFlag& cancelled) const {
  auto states = std::make_unique<FinalStates>(*this);
  SLIM_RETURN_IF_ERROR(states->run(ids, pool, cancelled));
  out = std::move(states);
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

}  // namespace slim
