// RMS norm and layer norm.
#pragma once
#include <vector>

#include "core/thread_pool.h"
#include "decoder/block_spec.h"

namespace slim {

/// RMS: x / √(mean x² + ε) ∘ w. Layer: (x − mean x) / √(var x + ε) ∘ w + b. Of a vector as long as the
/// weight.
class Norm {
 public:
  Norm() = default;
  /// `weight` as stored: with a unit offset, 1 is added here. `bias` may be empty.
  Norm(const NormSpec& spec, std::vector<float> weight, std::vector<float> bias);

  explicit operator bool() const { return !weight_.empty(); }
  size_t size() const { return weight_.size(); }
  NormSpec::Kind kind() const { return kind_; }
  float eps() const { return eps_; }
  /// As it is multiplied with, the unit offset included.
  const std::vector<float>& weight() const { return weight_; }
  const std::vector<float>& bias() const { return bias_; }
  /// One vector; `out` may be `x`.
  void apply(const float* x, float* out) const;
  /// Rows [rows, size()] with strides; `out` may be `x`.
  void apply(ThreadPool& pool, size_t rows, const float* x, size_t xStride, float* out,
             size_t outStride) const;

  /// One vector: inputGradient (+)= ∂L/∂x of `outputGradient` = ∂L/∂out; without `accumulate` they may be the
  /// same memory.
  void backward(const float* x, const float* outputGradient, float* inputGradient, bool accumulate) const;
  /// Contiguous rows [rows, size()].
  void backward(ThreadPool& pool, size_t rows, const float* x, const float* outputGradient,
                float* inputGradient, bool accumulate) const;

 private:
  struct Moments {
    float mean, inverse;  // 0 (RMS) or mean x; 1 / √(mean (x − mean)² + ε)
  };
  Moments moments(const float* x) const;

  NormSpec::Kind kind_ = NormSpec::Kind::Rms;
  float eps_ = 0;
  std::vector<float> weight_, bias_;
};

}  // namespace slim
