#include "decoder/key_values.h"

#include <cstring>

namespace slim {

Status KeyValues::allocate(const BlockSpec& spec, size_t capacity) {
  if (keys_ && capacity_ == capacity && headDim_ == spec.headDim && keys_->shape().front() == spec.kvHeads)
    return Status::success();
  capacity_ = capacity;
  headDim_ = spec.headDim;
  panels_ = (capacity + kKeyPanel - 1) / kKeyPanel;
  valueStride_ = paddedHead(headDim_);
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {spec.kvHeads, panels_, headDim_, kKeyPanel}, keys_));
  return Tensor::allocate(DType::F32, {spec.kvHeads, capacity_, valueStride_}, values_);
}

void KeyValues::store(size_t kvHead, size_t position, const float* key, const float* value) {
  float* lane = keyPanels(kvHead) + position / kKeyPanel * headDim_ * kKeyPanel + position % kKeyPanel;
  for (size_t d = 0; d < headDim_; ++d) lane[d * kKeyPanel] = key[d];
  std::memcpy(values(kvHead) + position * valueStride_, value, headDim_ * sizeof(float));
}

}  // namespace slim
