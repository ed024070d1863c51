#include "quant/wide_scale_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace slim {

ZeroRange::ZeroRange(float lo, float hi, int maxCode) : first(0), last(maxCode) {
  if (maxCode < 16) return;
  const int own = int(std::nearbyint(-lo / ((hi - lo) / float(maxCode))));
  first = std::clamp(own - kNearZeros / 2, 0, maxCode + 1 - kNearZeros);
  last = first + kNearZeros - 1;
}

void searchWideScalePortable(const float* weights, const float* h, size_t width, const float* lo,
                             const float* hi, int maxCode, float* scale, float* zero) {
  for (size_t r = 0; r < kLanes; ++r) {
    const auto level = [&](size_t j, float s, int z) {
      return std::clamp(std::nearbyint(weights[j * kLanes + r] / s), float(-z), float(maxCode - z));
    };
    double least = std::numeric_limits<double>::infinity();
    scale[r] = (hi[r] - lo[r]) / float(maxCode);
    zero[r] = 0;
    const auto consider = [&](float s, int z) {
      if (!(s > 0)) return;
      double loss = 0;
      for (size_t j = 0; j < width; ++j) {
        const double e = double(weights[j * kLanes + r]) - double(s) * level(j, s, z);
        loss += h[j] * e * e;
      }
      if (!(loss < least)) return;
      least = loss;
      scale[r] = s;
      zero[r] = float(z);
    };
    const ZeroRange zeros(lo[r], hi[r], maxCode);
    for (int z = zeros.first; z <= zeros.last; ++z) {
      const float above = z < maxCode ? hi[r] / float(maxCode - z) : 0.0f,
                  below = z > 0 ? -lo[r] / float(z) : 0.0f;
      for (const float base : {std::max(above, below), (hi[r] - lo[r]) / float(maxCode)})
        for (const float p : kWideFactors) consider(base * p, z);
    }
    for (int round = 0; round < kLeastSquaresRounds; ++round) {
      double products = 0, squares = 0;
      for (size_t j = 0; j < width; ++j) {
        const double c = level(j, scale[r], int(zero[r]));
        products += h[j] * c * weights[j * kLanes + r];
        squares += h[j] * c * c;
      }
      const float s = float(products / squares);
      consider(s, int(zero[r]));
    }
  }
}

WideScaleSearch wideScaleSearch(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::Avx512) return kWideScaleSearchAvx512;
  if (set == InstructionSet::Avx2) return kWideScaleSearchAvx2;
#endif
  (void)set;
  return searchWideScalePortable;
}

}  // namespace slim
