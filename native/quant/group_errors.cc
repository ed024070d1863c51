#include "quant/group_errors.h"

#include "quant/gptq.h"

namespace slim {
namespace {

// L_b is measured up to this width; wider groups take over what three bits do.
constexpr int kMeasuredBits = 3;

// a(g, b), as errors[group * mostBits + b − 1].
std::vector<double> shares(const GroupedWeight& weight, const GroupErrorWeights& weights, int mostBits,
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
        const double u = weights.factor.upper[(begin + j) * groups.cols + begin + j], cost = 1 / (u * u);
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

}  // namespace

Status scaleToLosses(int mostBits, const double* rows, const MeasureLosses& measure,
                     std::vector<double>& errors) {
  const size_t widths = size_t(mostBits);
  double ratio = 1;
  for (size_t b = 0; b < widths; ++b) {
    if (int(b) < kMeasuredBits) {
      std::vector<double> losses;
      SLIM_RETURN_IF_ERROR(measure(int(b) + 1, losses));
      double loss = 0, sum = 0;
      for (size_t r = 0; r < losses.size(); ++r) loss += rows[r] * losses[r];
      for (size_t i = b; i < errors.size(); i += widths) sum += errors[i];
      ratio = sum > 0 ? loss / sum : 1;
    }
    for (size_t i = b; i < errors.size(); i += widths) errors[i] *= ratio;
  }
  return Status::success();
}

Status groupErrors(const GroupedWeight& weight, const GroupErrorWeights& weights, int mostBits,
                   Quantizer quantizer, ThreadPool& pool, const CancelFlag& cancelled,
                   std::vector<double>& errors) {
  errors = shares(weight, weights, mostBits, quantizer, pool, cancelled);
  const auto measure = [&](int bits, std::vector<double>& losses) {
    std::vector<float> w(weight.data, weight.data + weight.rows * weight.cols());
    losses.resize(weight.rows);
    GroupCodes codes;
    QuantizationSeconds seconds;
    return quantizeGroups(
        w, weight.rows, weight.groups, std::vector<uint8_t>(weight.groups.count(), uint8_t(bits)),
        {.quantizer = quantizer, .h = weights.h, .factor = &weights.factor, .losses = losses.data()}, pool,
        cancelled, codes, seconds);
  };
  return scaleToLosses(mostBits, weights.rows, measure, errors);
}

}  // namespace slim
