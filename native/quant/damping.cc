#include "quant/damping.h"

#include <cmath>

namespace slim {
namespace {

Status failure(const std::string& message) {
  Status status = Status::error("SLIM_NOT_POSITIVE_DEFINITE", message);
  status.parameter = "hessian";
  status.remedy = "Use more calibration text, or look for NaN and huge activations in the layer's inputs";
  return status;
}

}  // namespace

Status factorDamped(const std::vector<float>& diagonal, float scale, Damping damping,
                    const CancelFlag& cancelled,
                    const std::function<Status(double added, bool& definite)>& factor, DampedFactor& out) {
  const size_t n = diagonal.size();
  out.dead.resize(n);
  double mean = 0;
  for (size_t j = 0; j < n; ++j) {
    out.dead[j] = diagonal[j] == 0;
    mean += (out.dead[j] ? 1.0 : double(scale) * diagonal[j]) / double(n);
  }
  if (!(mean > 0) || !std::isfinite(mean))
    return failure("The Hessian's diagonal is not finite and positive");

  constexpr double kGrowth = 10, kLimit = 1.0;  // of the mean diagonal
  const double first = damping == Damping::Gptq ? 0.01 : 0.01 / mean;
  for (out.damping = first; out.damping == first || out.damping <= kLimit * 1.000001;
       out.damping *= kGrowth) {
    if (cancelled.load()) return Status::aborted();
    bool definite = false;
    SLIM_RETURN_IF_ERROR(factor(out.damping * mean, definite));
    if (!definite) continue;
    // The first λ of the salience is the equation's own, not 0.01 / mean · mean.
    out.lambda = damping == Damping::Salience && out.damping == first ? 0.01 : out.damping * mean;
    return Status::success();
  }
  return failure("The Hessian of " + std::to_string(n) +
                 " channels is not positive definite, even with its mean diagonal added to the diagonal");
}

}  // namespace slim
