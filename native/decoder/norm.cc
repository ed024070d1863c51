#include "decoder/norm.h"

#include <algorithm>
#include <cmath>

#include "core/partial_sum.h"

namespace slim {

Norm::Norm(const NormSpec& spec, std::vector<float> weight, std::vector<float> bias)
    : kind_(spec.kind), eps_(spec.eps), weight_(std::move(weight)), bias_(std::move(bias)) {
  if (spec.unitOffset)
    for (float& w : weight_) w += 1.0f;
}

Norm::Moments Norm::moments(const float* x) const {
  const size_t n = weight_.size();
  float mean = 0;
  if (kind_ == NormSpec::Kind::Layer) mean = float(partialSum(n, [&](size_t i) { return x[i]; }) / double(n));
  const double square = partialSum(n, [&](size_t i) { return (x[i] - mean) * (x[i] - mean); });
  return {mean, float(1.0 / std::sqrt(square / double(n) + eps_))};
}

void Norm::apply(const float* x, float* out) const {
  const size_t n = weight_.size();
  const auto [mean, inverse] = moments(x);
  if (bias_.empty())
    for (size_t i = 0; i < n; ++i) out[i] = (x[i] - mean) * inverse * weight_[i];
  else
    for (size_t i = 0; i < n; ++i) out[i] = (x[i] - mean) * inverse * weight_[i] + bias_[i];
}

void Norm::apply(ThreadPool& pool, size_t rows, const float* x, size_t xStride, float* out,
                 size_t outStride) const {
  constexpr size_t kRows = 16;
  pool.parallelFor((rows + kRows - 1) / kRows, [&](size_t tile, int) {
    for (size_t r = tile * kRows; r < std::min(rows, (tile + 1) * kRows); ++r)
      apply(x + r * xStride, out + r * outStride);
  });
}

// With x̂ = (x − mean) · inverse and g = w ∘ ∂L/∂out:
// ∂L/∂x = inverse · (g − mean g [layer norm only] − x̂ · mean(g ∘ x̂)).
void Norm::backward(const float* x, const float* outputGradient, float* inputGradient,
                    bool accumulate) const {
  const size_t n = weight_.size();
  const float *w = weight_.data(), *dy = outputGradient;
  const Moments m = moments(x);
  const double along = partialSum(n, [&](size_t i) { return dy[i] * w[i] * ((x[i] - m.mean) * m.inverse); });
  float shift = 0;
  if (kind_ == NormSpec::Kind::Layer)
    shift = float(partialSum(n, [&](size_t i) { return dy[i] * w[i]; }) / double(n)) * m.inverse;
  const float slope = float(along / double(n)) * m.inverse * m.inverse;
  const auto gradient = [&](size_t i) { return dy[i] * w[i] * m.inverse - shift - (x[i] - m.mean) * slope; };
  if (accumulate)
    for (size_t i = 0; i < n; ++i) inputGradient[i] += gradient(i);
  else
    for (size_t i = 0; i < n; ++i) inputGradient[i] = gradient(i);
}

void Norm::backward(ThreadPool& pool, size_t rows, const float* x, const float* outputGradient,
                    float* inputGradient, bool accumulate) const {
  constexpr size_t kRows = 16;
  pool.parallelFor((rows + kRows - 1) / kRows, [&](size_t tile, int) {
    for (size_t at = tile * kRows * size(); at < std::min(rows, (tile + 1) * kRows) * size(); at += size())
      backward(x + at, outputGradient + at, inputGradient + at, accumulate);
  });
}

}  // namespace slim
