#include "cpu/packed_activations.h"

#include <cstring>

#include "cpu/packed_kernels.h"

namespace slim {

void PackedActivations::reserve(size_t tokens, const Segments& cut) {
  tokens_ = uint32_t(tokens);
  panels_ = uint32_t((tokens + kPanelTokens - 1) / kPanelTokens);
  narrow_ = tokens_ / panels_;
  wider_ = tokens_ % panels_;
  cut_ = cut;
  segments_ = uint32_t(cut.count());
  paddedCols_ = uint32_t(cut.paddedCols());
  values_.reserve(tokens * paddedCols_ / sizeof(float));
  scales_.reserve(tokens * segments_ * 2);
}

void PackedActivations::round(size_t index, const float* x, size_t xStride) {
  const Panel panel = this->panel(index);
  const size_t width = panel.tokens;
  int8_t* const values = const_cast<int8_t*>(panel.values);
  float *const scales = const_cast<float*>(panel.scales), *const sums = const_cast<float*>(panel.sums);
  const PackedKernels& kernels = activePackedKernels();
  for (size_t s = 0; s < segments_; ++s) {
    const size_t begin = cut_.begin(s), count = cut_.width(s), quads = Segments::padded(count) / 4;
    int8_t* const out = values + cut_.paddedBegin(s) * width;
    for (size_t t = 0; t < width; ++t) {
      const float* row = x + (panel.firstToken + t) * xStride + begin;
      float &scale = scales[s * width + t], &sum = sums[s * width + t];
      if (width == 1) {  // the quads lie side by side
        kernels.quantize(row, count, out, scale, sum);
        continue;
      }
      alignas(64) int8_t q[Segments::kMost];
      kernels.quantize(row, count, q, scale, sum);
      for (size_t quad = 0; quad < quads; ++quad) std::memcpy(out + (quad * width + t) * 4, q + quad * 4, 4);
    }
  }
}

PackedActivations::Panel PackedActivations::panel(size_t index) const {
  const size_t first = index * narrow_ + std::min<size_t>(index, wider_),
               tokens = narrow_ + (index < wider_ ? 1 : 0);
  const float* scales = scales_.data() + first * segments_ * 2;
  return {first, tokens, reinterpret_cast<const int8_t*>(values_.data()) + first * paddedCols_, scales,
          scales + tokens * segments_};
}

}  // namespace slim
