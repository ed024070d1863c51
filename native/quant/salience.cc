#include "quant/salience.h"

namespace slim {

std::vector<double> groupSalience(const GroupedWeight& weight, const float* diagonal, ThreadPool& pool) {
  const Groups& groups = weight.groups;
  std::vector<double> salience(groups.count());
  pool.parallelFor(groups.count(), [&](size_t g, int) {
    const size_t begin = groups.begin(g), width = groups.width(g);
    std::vector<double> energy(width);  // Σ_rows w²
    for (size_t r = 0; r < weight.rows; ++r) {
      const float* w = weight.data + r * groups.cols + begin;
      for (size_t j = 0; j < width; ++j) energy[j] += double(w[j]) * w[j];
    }
    for (size_t j = 0; j < width; ++j)
      salience[g] += energy[j] / (double(diagonal[begin + j]) * diagonal[begin + j]);
  });
  return salience;
}

}  // namespace slim
