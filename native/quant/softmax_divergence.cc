#include "quant/softmax_divergence.h"

#include <algorithm>
#include <cmath>

namespace slim {
namespace {

// log Σ exp(y), so that y − it is the log-probability.
float logSum(const float* y, size_t n) {
  const float greatest = *std::max_element(y, y + n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) sum += std::exp(y[i] - greatest);
  return greatest + float(std::log(sum));  // cppcheck-suppress invalidFunctionArg; the greatest adds 1
}

void logProbabilities(const float* y, size_t n, float* out) {
  const float normalizer = logSum(y, n);
  for (size_t i = 0; i < n; ++i) out[i] = std::max(y[i] - normalizer, kLogLeastProbability);
}

double divergence(const float* y, const float* reference, size_t n) {
  const float normalizer = logSum(y, n);
  double sum = 0;
  for (size_t i = 0; i < n; ++i) {
    const float log = std::max(y[i] - normalizer, kLogLeastProbability);
    sum += std::exp(log) * (log - reference[i]);
  }
  return sum;
}

}  // namespace

const SoftmaxKernels kSoftmaxPortable = {logProbabilities, divergence};

const SoftmaxKernels& softmaxKernels(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::Avx512) return kSoftmaxAvx512;
  if (set == InstructionSet::Avx2) return kSoftmaxAvx2;
#endif
  (void)set;
  return kSoftmaxPortable;
}

}  // namespace slim
