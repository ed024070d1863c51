// Arguments of the kernel that differentiates tokens' likelihoods.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

constexpr uint32_t kLikelihoodThreads = 256;
/// Sums of likelihoods are kept of so many chunks of the vocabulary, so that a label is found quickly.
constexpr uint32_t kLikelihoodChunks = 256;
SLIM_HOST_DEVICE constexpr uint32_t likelihoodChunk(uint32_t vocab) {
  const uint32_t width = (vocab + kLikelihoodChunks - 1) / kLikelihoodChunks;
  return width < 1024 ? 1024 : width;
}

/// Labels that are no token: to be drawn; none, with gradients of 0.
constexpr int32_t kDrawLabel = -1, kNoLabel = -2;

/// differentiateLikelihoods: logits before the cap become ∂L/∂logits, (p − onehot(label)) (1 − (capped /
/// cap)²).
struct LikelihoodArguments {
  Address<float> logits;        // [tokens, vocab]
  Address<int32_t> labels;      // [tokens]; a drawn one takes the place of kDrawLabel
  Address<const double> draws;  // [tokens] in [0, 1)
  Address<double> nll;          // [tokens] −ln p(label)
  uint32_t vocab;
  float cap;  // 0: none
};

}  // namespace slim::cuda
