// KL divergence between the softmaxes of two output vectors (METHODS: step 3). Probabilities are clamped at
// 1e-6 and not renormalized, as the paper's public code does: KL = Σ t (log t − log r), t quantized, r
// original.
#pragma once
#include <cstddef>

#include "cpu/features.h"

namespace slim {

constexpr float kLogLeastProbability = -13.815510557964274f;  // log 1e-6

/// The logarithm of a clamped probability needs no log: it is max(y − max y − log Σ exp(y − max y), log
/// 1e-6).
struct SoftmaxKernels {
  /// out[i] = log max(softmax(y)_i, 1e-6); out may be y.
  void (*logProbabilities)(const float* y, size_t n, float* out);
  /// KL(softmax(y) ‖ reference), both clamped; `reference` as logProbabilities gives it.
  double (*divergence)(const float* y, const float* reference, size_t n);
};

/// The kernels for an instruction set that this processor has.
const SoftmaxKernels& softmaxKernels(InstructionSet set = activeInstructionSet());

extern const SoftmaxKernels kSoftmaxPortable;  // the oracle
#if defined(__x86_64__)
extern const SoftmaxKernels kSoftmaxAvx2, kSoftmaxAvx512;  // cpu/softmax.inl
#endif

}  // namespace slim
