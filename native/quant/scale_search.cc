#include "quant/scale_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace slim {

void searchScalePortable(const float* weights, size_t width, const float* lo, const float* hi, int maxCode,
                         float* scale, float* zero) {
  for (size_t r = 0; r < kLanes; ++r) {
    float least = std::numeric_limits<float>::infinity();
    for (const float p : kSearchFactors) {
      const float s = (p * hi[r] - p * lo[r]) / float(maxCode), z = std::nearbyint(-p * lo[r] / s);
      const float inverse = 1 / s;
      float loss = 0;
      for (size_t j = 0; j < width; ++j) {
        const float w = weights[j * kLanes + r];
        const float level = std::clamp(std::nearbyint(w * inverse), -z, float(maxCode) - z);
        loss += std::pow(std::abs(level * s - w), kSearchNorm);
      }
      if (loss < least || p == 1) {
        least = loss;
        scale[r] = s;
        zero[r] = z;
      }
    }
  }
}

ScaleSearch scaleSearch(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::Avx512) return kScaleSearchAvx512;
  if (set == InstructionSet::Avx2) return kScaleSearchAvx2;
#endif
  (void)set;
  return searchScalePortable;
}

}  // namespace slim
