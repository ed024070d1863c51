// The Hessian of a linear layer's squared output error, H = (2/N) Σ XᵀX (METHODS: step 1).
#pragma once
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"

namespace slim {

class Hessian {
 public:
  /// `keepEvery`: every how many tokens a row of X is kept for the KL of SBA; 0 keeps none.
  Hessian(size_t size, size_t keepEvery);

  size_t size() const { return size_; }
  size_t sequences() const { return sequences_; }

  /// Adds x [tokens, size] (row stride `stride` elements), `sequences` whole sequences.
  void add(const float* x, size_t tokens, size_t stride, size_t sequences, ThreadPool& pool);

  /// H, float32 [size, size], symmetric.
  Status matrix(TensorPtr& out) const;
  /// Kept rows, float32 [kept, size].
  const std::vector<float>& samples() const { return samples_; }
  size_t sampleCount() const { return size_ ? samples_.size() / size_ : 0; }

 private:
  size_t size_, keepEvery_, sequences_ = 0, tokens_ = 0;
  std::vector<float> sum_;  // upper triangle of Σ XᵀX
  std::vector<float> samples_;
};

}  // namespace slim
