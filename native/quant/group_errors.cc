#include "quant/group_errors.h"

namespace slim {

std::vector<double> groupErrors(const GroupedWeight& weight, const GroupErrorWeights& weights, int mostBits,
                                Quantizer quantizer, ThreadPool& pool, const CancelFlag& cancelled) {
  const Groups& groups = weight.groups;
  const size_t tiles = (weight.rows + kLanes - 1) / kLanes, widths = size_t(mostBits);
  std::vector<double> partial(groups.count() * tiles * widths);  // summed in one order, whatever the threads
  pool.parallelFor(groups.count() * tiles, [&](size_t index, int) {
    if (cancelled.load()) return;
    const size_t group = index / tiles, firstRow = index % tiles * kLanes;
    const size_t begin = groups.begin(group), width = groups.width(group);
    const size_t rows = std::min(kLanes, weight.rows - firstRow);
    std::vector<float> lanes(width * kLanes);
    loadLanes(weight, group, firstRow, lanes.data());
    for (int bits = 1; bits <= mostBits; ++bits) {
      GroupFit fit(quantizer, bits, lanes.data(), width, weights.h + begin);
      fit.roundToStored();
      double errors[kLanes] = {};
      for (size_t j = 0; j < width; ++j) {
        const float* column = lanes.data() + j * kLanes;
        float quantized[kLanes];
        uint8_t codes[kLanes];
        fit.quantize(column, quantized, codes);
        const double u = weights.factorDiagonal[begin + j], cost = 1 / (u * u);
        for (size_t r = 0; r < kLanes; ++r) {
          const double e = double(column[r]) - quantized[r];
          errors[r] += cost * e * e;
        }
      }
      double& sum = partial[index * widths + size_t(bits) - 1];
      for (size_t r = 0; r < rows; ++r) sum += weights.rows[firstRow + r] * errors[r];
    }
  });
  std::vector<double> errors(groups.count() * widths);
  for (size_t group = 0; group < groups.count(); ++group)
    for (size_t tile = 0; tile < tiles; ++tile)
      for (size_t k = 0; k < widths; ++k)
        errors[group * widths + k] += partial[(group * tiles + tile) * widths + k];
  return errors;
}

}  // namespace slim
