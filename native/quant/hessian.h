// The Hessian of a linear layer's squared output error, H = (2/N) Σ XᵀX (METHODS: step 1).
#pragma once
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "quant/cholesky.h"

namespace slim {

/// What the salience reads of its factor.
struct SalienceFactor {
  std::vector<float> diagonal;  // U_jj
  double damping;               // λ: 0.01, or more where that was not enough
};

/// What the original model has where the quantized one has inputs x.
struct OriginalInputs {
  const float* x = nullptr;  // x̃, the same stride as x
  /// Where the layer's outputs are added to the states [tokens, stateSize]: these, of both models.
  const float* states = nullptr;
  const float* quantizedStates = nullptr;
  size_t stateSize = 0;
};

class Hessian {
 public:
  /// `keepEvery`: every how many tokens a row of X is kept for the KL of SBA; 0 keeps none.
  Hessian(size_t size, size_t keepEvery);

  size_t size() const { return size_; }
  size_t sequences() const { return sequences_; }

  /// Adds x [tokens, size] (row stride `stride` elements), `sequences` whole sequences. Waits for readers.
  void add(const float* x, size_t tokens, size_t stride, size_t sequences, ThreadPool& pool,
           const OriginalInputs& original = {});

  /// While one is held, add() waits; what follows is called under it when another thread may add.
  std::shared_lock<std::shared_mutex> reading() const { return std::shared_lock(access_); }

  /// H, float32 [size, size], symmetric.
  Status matrix(TensorPtr& out) const;
  /// Σ XᵀX [size, size], symmetric, and the factor 2/N that makes it H.
  const float* sum() const;
  float scale() const { return 2.0f / float(sequences_); }
  /// Σ (X̃ − X)ᵀ X [size, size]; empty where no original inputs came.
  const std::vector<float>& inputDrift() const { return inputDrift_; }
  /// Σ (S̃ − S)ᵀ X [stateSize, size], S the states; empty where none came.
  const std::vector<float>& stateDrift() const { return stateDrift_; }
  /// Σ x_j² of every channel [size].
  std::vector<float> diagonal() const;
  /// Kept rows, float32 [kept, size].
  const std::vector<float>& samples() const { return samples_; }
  size_t sampleCount() const { return samples_.size() / size_; }
  /// Sequences times the share of tokens that was kept: the N of sums over the kept rows.
  double sampledSequences() const { return double(sequences_) * double(sampleCount()) / double(tokens_); }

  /// GPTQ's factor, and what the salience needs of its own. Computed once for the layers that share the input
  /// (q, k and v; gate and up); concurrent callers wait for the first.
  Status gptqFactor(ThreadPool& pool, const CancelFlag& cancelled,
                    std::shared_ptr<const InverseFactor>& out) const;
  Status salienceFactor(ThreadPool& pool, const CancelFlag& cancelled,
                        std::shared_ptr<const SalienceFactor>& out) const;
  /// [size] 1: H_jj = 0, the channel never fires.
  std::vector<uint8_t> deadChannels() const;

 private:
  size_t size_, keepEvery_, sequences_ = 0, tokens_ = 0;
  mutable std::shared_mutex access_;
  mutable std::vector<float>
      sum_;  // upper triangle of Σ XᵀX; below the diagonal its mirror image if mirrored_
  std::vector<float> inputDrift_, stateDrift_;
  std::vector<float> samples_;

  mutable std::mutex derived_;  // guards what is computed from the sum at first use
  mutable bool mirrored_ = false;
  mutable std::shared_ptr<const InverseFactor> gptqFactor_;
  mutable std::shared_ptr<const SalienceFactor> salienceFactor_;
};

}  // namespace slim
