// The damping of a Hessian that is to be factored, on whatever device: which λ are tried, and when it is
// given up.
#pragma once
#include <cstdint>
#include <functional>
#include <vector>

#include "core/status.h"

namespace slim {

/// λ of the first try: the salience adds 0.01 to every diagonal element, GPTQ 1 % of their mean (METHODS:
/// step 2).
enum class Damping { Salience, Gptq };

struct DampedFactor {
  std::vector<uint8_t> dead;  // [n] 1: H_jj = 0, the channel never fires; H_jj was set to 1
  double lambda = 0;          // λ that H could be factored with
  double damping = 0;         // λ as a share of the mean diagonal
};

/// Calls factor(added, definite) with growing `added`, what each diagonal element of scale · H is raised by,
/// until it finds the matrix positive definite. `diagonal`: H_jj. When H + λI is not positive definite λ
/// grows tenfold, up to the mean diagonal; beyond that the status is SLIM_NOT_POSITIVE_DEFINITE.
Status factorDamped(const std::vector<float>& diagonal, float scale, Damping damping,
                    const CancelFlag& cancelled,
                    const std::function<Status(double added, bool& definite)>& factor, DampedFactor& out);

}  // namespace slim
