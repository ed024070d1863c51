#include "decoder/embedding.h"

#include <algorithm>

namespace slim {

Status Embedding::check() const {
  SLIM_RETURN_IF_ERROR(
      table.check("embedding", std::max<size_t>(table.rows, 1), std::max<size_t>(table.cols, 1)));
  if (!positions) return Status::success();
  const size_t rows = std::max(positions->rows(), positionOffset + 1);
  return Weight::of(positions).check("positions.weight", rows, hidden());
}

Status Embedding::checkIds(const std::vector<int32_t>& ids, size_t least) const {
  if (ids.size() < least)
    return Status::invalidArgument("ids", "at least " + std::to_string(least) + " token ids",
                                   std::to_string(ids.size()));
  for (size_t i = 0; i < ids.size(); ++i)
    if (ids[i] < 0 || size_t(ids[i]) >= vocab())
      return Status::invalidArgument("ids[" + std::to_string(i) + "]",
                                     "a token id below " + std::to_string(vocab()), std::to_string(ids[i]),
                                     "Use the tokenizer that belongs to the model");
  return Status::success();
}

Status Embedding::embed(const std::vector<int32_t>& ids, size_t sequenceLength, size_t start, float* states,
                        ThreadPool& pool, const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkIds(ids, 1));
  if (sequenceLength == 0 || ids.size() % sequenceLength != 0)
    return Status::invalidArgument("sequenceLength",
                                   "a divisor of the " + std::to_string(ids.size()) + " token ids",
                                   std::to_string(sequenceLength));
  if (positions && start + sequenceLength > positions->rows() - positionOffset)
    return Status::invalidArgument(
        "sequenceLength",
        "at most the model's " + std::to_string(positions->rows() - positionOffset) + " positions",
        std::to_string(start + sequenceLength), "Use shorter sequences");
  constexpr size_t kTask = 16;  // tokens
  pool.parallelFor((ids.size() + kTask - 1) / kTask, [&](size_t task, int) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    std::vector<float> position(positions ? hidden() : 0);
    for (size_t t = task * kTask; t < std::min(ids.size(), (task + 1) * kTask); ++t) {
      float* row = states + t * hidden();
      table.read(size_t(ids[t]), row);
      if (scale != 1.0f)
        for (size_t i = 0; i < hidden(); ++i) row[i] *= scale;
      if (!positions) continue;
      const size_t index = start + t % sequenceLength + positionOffset;
      readRow(positions->dtype(), positions->row(index), 0, hidden(), position.data());
      for (size_t i = 0; i < hidden(); ++i) row[i] += position[i];
    }
  });
  return cancelled.load() ? Status::aborted() : Status::success();
}

}  // namespace slim
