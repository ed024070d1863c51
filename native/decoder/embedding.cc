#include "decoder/embedding.h"

#include <algorithm>
#include <limits>

namespace slim {

Status Embedding::check() const {
  SLIM_RETURN_IF_ERROR(
      table.check("embedding", std::max<size_t>(table.rows, 1), std::max<size_t>(table.cols, 1)));
  if (!positions) return Status::success();
  const size_t rows = std::max(positions->rows(), positionOffset + 1);
  return Weight::of(positions).check("positions.weight", rows, hidden());
}

Status checkTokenIds(const std::vector<int32_t>& ids, size_t vocab, size_t least, const std::string& name) {
  if (ids.size() < least)
    return Status::invalidArgument(name, "at least " + std::to_string(least) + " token ids",
                                   std::to_string(ids.size()));
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || size_t(ids[i]) >= vocab)
      return Status::invalidArgument(name + "[" + std::to_string(i) + "]",
                                     "a token id below " + std::to_string(vocab), std::to_string(ids[i]),
                                     "Use the tokenizer that belongs to the model");
  return Status::success();
}

size_t Embedding::positionLimit() const {
  return positions ? positions->rows() - positionOffset : std::numeric_limits<size_t>::max();
}

Status Embedding::embed(const std::vector<int32_t>& ids, size_t sequenceLength, size_t start, float* states,
                        ThreadPool& pool, const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkTokenIds(ids, vocab(), 1));
  if (sequenceLength == 0 || ids.size() % sequenceLength != 0)
    return Status::invalidArgument("sequenceLength",
                                   "a divisor of the " + std::to_string(ids.size()) + " token ids",
                                   std::to_string(sequenceLength));
  if (start + sequenceLength > positionLimit())
    return Status::invalidArgument("sequenceLength",
                                   "at most the model's " + std::to_string(positionLimit()) + " positions",
                                   std::to_string(start + sequenceLength), "Use shorter sequences");
  constexpr size_t kTask = 16;  // tokens
  pool.parallelFor((ids.size() + kTask - 1) / kTask, [&](size_t task, int) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    std::vector<float> position(positions ? hidden() : 0);
    for (size_t t = task * kTask; t < std::min(ids.size(), (task + 1) * kTask); ++t)
      embedToken(ids[t], start + t % sequenceLength, states + t * hidden(), position.data());
  });
  return cancelled.load() ? Status::aborted() : Status::success();
}

void Embedding::embedToken(int32_t id, size_t position, float* state, float* scratch) const {
  table.read(size_t(id), state);
  if (scale != 1.0f)
    for (size_t i = 0; i < hidden(); ++i) state[i] *= scale;
  if (!positions) return;
  readRow(positions->dtype(), positions->row(position + positionOffset), 0, hidden(), scratch);
  for (size_t i = 0; i < hidden(); ++i) state[i] += scratch[i];
}

}  // namespace slim
