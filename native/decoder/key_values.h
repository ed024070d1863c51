// Keys and values of whole sequences in one block, laid out for the attention kernels.
#pragma once
#include "core/tensor.h"
#include "decoder/block_spec.h"

namespace slim {

/// Keys lie in panels of this many tokens, each [headDim][tokens]: q·k then runs over tokens, one vector of
/// scores a step, and appending a token writes one lane. The same for every instruction set.
constexpr size_t kKeyPanel = 16;

inline size_t paddedHead(size_t headDim) { return (headDim + kKeyPanel - 1) / kKeyPanel * kKeyPanel; }

/// Of one sequence in one block, float32: for passes over whole sequences.
class KeyValues {
 public:
  /// What is there is kept, to be overwritten, when it has this shape already.
  Status allocate(const BlockSpec& spec, size_t capacity);

  /// [panels][headDim][kKeyPanel]
  float* keyPanels(size_t kvHead) const {
    return keys_->as<float>() + kvHead * panels_ * headDim_ * kKeyPanel;
  }
  /// [capacity][valueStride()]: rows padded with zeros to whole panels
  float* values(size_t kvHead) const { return values_->as<float>() + kvHead * capacity_ * valueStride_; }
  size_t valueStride() const { return valueStride_; }
  void store(size_t kvHead, size_t position, const float* key, const float* value);

 private:
  size_t capacity_ = 0, panels_ = 0, headDim_ = 0, valueStride_ = 0;
  TensorPtr keys_, values_;
};

}  // namespace slim
