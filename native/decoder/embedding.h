// Token embeddings, scaled, with learned positions: the states before the first block.
#pragma once
#include <cstdint>
#include <vector>

#include "decoder/linear.h"

namespace slim {

/// At least so many ids, all in the vocabulary; `name` is what an error calls them.
Status checkTokenIds(const std::vector<int32_t>& ids, size_t vocab, size_t least,
                     const std::string& name = "ids");

struct Embedding {
  Weight table;         // [vocab, hidden]
  TensorPtr positions;  // learned positions [positions + offset, hidden], or null
  size_t positionOffset = 0;
  float scale = 1.0f;

  size_t vocab() const { return table.rows; }
  size_t hidden() const { return table.cols; }

  Status check() const;
  /// How many positions there are: without learned ones, no end.
  size_t positionLimit() const;
  /// States [ids, hidden] of whole sequences, each from position `start` on.
  Status embed(const std::vector<int32_t>& ids, size_t sequenceLength, size_t start, float* states,
               ThreadPool& pool, const CancelFlag& cancelled) const;
  /// The state [hidden] of one token at a position; `scratch` [hidden] where there are learned positions.
  void embedToken(int32_t id, size_t position, float* state, float* scratch) const;
};

}  // namespace slim
