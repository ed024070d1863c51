#include "quant/quantizer.h"

#include <cmath>

#include "core/half.h"
#include "quant/wide_scale_search.h"

namespace slim {
namespace {

// Adding and taking off 1.5 · 2^23 rounds a float of magnitude below 2^22 to a whole number, ties to even.
float roundHalfEven(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

// The range of each row; it always includes 0, and a group of zeros gets [−1, 1].
void ranges(const float* lanes, size_t width, float* lo, float* hi) {
  std::fill_n(lo, kLanes, 0.0f);
  std::fill_n(hi, kLanes, 0.0f);
  for (size_t j = 0; j < width; ++j) {
    for (size_t r = 0; r < kLanes; ++r) {
      lo[r] = std::min(lo[r], lanes[j * kLanes + r]);
      hi[r] = std::max(hi[r], lanes[j * kLanes + r]);
    }
  }
  for (size_t r = 0; r < kLanes; ++r) {
    lo[r] = std::max(lo[r], -kGreatestBound);
    hi[r] = std::min(hi[r], kGreatestBound);
    if (hi[r] - lo[r] < kLeastRange) lo[r] = -1, hi[r] = 1;
  }
}

}  // namespace

void loadLanes(const GroupedWeight& weight, size_t group, size_t firstRow, float* lanes) {
  const size_t begin = weight.groups.begin(group), width = weight.groups.width(group);
  for (size_t r = 0; r < kLanes; ++r) {
    const bool inside = firstRow + r < weight.rows;
    const float* row = inside ? weight.data + (firstRow + r) * weight.cols() + begin : nullptr;
    for (size_t j = 0; j < width; ++j) lanes[j * kLanes + r] = inside ? row[j] : 0.0f;
  }
}

GroupFit::GroupFit(Quantizer quantizer, int bits, const float* lanes, size_t width, const float* h)
    : bits(bits) {
  if (bits == 1) {
    fitOneBit(quantizer, lanes, width, h);
    return;
  }
  const int maxCode = (1 << bits) - 1;
  float lo[kLanes], hi[kLanes];
  ranges(lanes, width, lo, hi);
  if (quantizer == Quantizer::Sqc) {
    scaleSearch()(lanes, width, lo, hi, maxCode, scale, offset);
    return;
  }
  if (quantizer == Quantizer::Wide) {
    wideScaleSearch()(lanes, h, width, lo, hi, maxCode, scale, offset);
    return;
  }
  for (size_t r = 0; r < kLanes; ++r) {
    scale[r] = (hi[r] - lo[r]) / float(maxCode);
    offset[r] = roundHalfEven(-lo[r] / scale[r]);
  }
}

void GroupFit::fitOneBit(Quantizer quantizer, const float* lanes, size_t width, const float* h) {
  for (size_t r = 0; r < kLanes; ++r) {
    const auto weight = [&](size_t j) { return lanes[j * kLanes + r]; };
    // Mean of value(j) over the group, weighed by h where an error of some column costs anything.
    const auto mean = [&](auto value) {
      double sum = 0, total = 0, plain = 0;
      for (size_t j = 0; j < width; ++j) {
        const double cost = quantizer == Quantizer::Wide ? h[j] : 1.0;
        sum += cost * value(j);
        total += cost;
        plain += value(j);
      }
      return total > 0 ? sum / total : plain / double(width);
    };
    bool constant = true;
    for (size_t j = 1; j < width; ++j) constant &= weight(j) == weight(0);
    const double center = mean([&](size_t j) { return double(weight(j)); });
    const double origin = quantizer == Quantizer::Wide ? center : 0.0;
    offset[r] = float(center);
    scale[r] = constant ? 0.0f : float(mean([&](size_t j) { return std::abs(weight(j) - origin); }));
  }
}

void GroupFit::roundToStored() {
  const float least = bits == 1 ? 0.0f : kLeastHalf;  // codes of 2 bits and more divide by the scale
  for (size_t r = 0; r < kLanes; ++r) {
    scale[r] = std::clamp(roundToHalf(scale[r]), least, kGreatestHalf);
    if (bits == 1) offset[r] = std::clamp(roundToHalf(offset[r]), -kGreatestHalf, kGreatestHalf);
  }
}

void GroupFit::quantize(const float* column, float* quantized, uint8_t* codes) const {
  if (bits == 1) {
    for (size_t r = 0; r < kLanes; ++r) {
      codes[r] = column[r] >= offset[r];
      quantized[r] = offset[r] + (codes[r] ? scale[r] : -scale[r]);
    }
    return;
  }
  const float maxCode = float((1 << bits) - 1);
  for (size_t r = 0; r < kLanes; ++r) {
    // Clamped before rounding: the bounds are whole numbers, so the result is the same and the rounding is
    // cheap.
    const float level =
        roundHalfEven(std::min(std::max(column[r] / scale[r], -offset[r]), maxCode - offset[r]));
    quantized[r] = scale[r] * level;
    codes[r] = uint8_t(int(level + offset[r]));
  }
}

}  // namespace slim
