// The factor that GPTQ and the salience read: U, upper triangular, with (H + λI)⁻¹ = UᵀU.
//
// No inverse of H is formed: factor H + λI = P Pᵀ with P upper triangular (a Cholesky factorization that
// starts at the last column); then (H + λI)⁻¹ = P⁻ᵀ P⁻¹, so U = P⁻¹.
#pragma once
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"

namespace slim {

/// Replaces the upper triangle of a [n, n] (row-major) by P, A = P Pᵀ, and the rest by zeros. False: not
/// positive definite (a pivot is not a positive finite number), or cancelled; `a` is then half done.
bool factorUpper(float* a, size_t n, ThreadPool& pool, const CancelFlag& cancelled);

/// Replaces an upper triangular P (zeros below the diagonal) by its inverse; half of it when cancelled.
void invertUpper(float* p, size_t n, ThreadPool& pool, const CancelFlag& cancelled);

/// λ of the first try: the salience adds 0.01 to every diagonal element, GPTQ 1 % of their mean (METHODS:
/// step 2).
enum class Damping { Salience, Gptq };

struct InverseFactor {
  std::vector<float> upper;   // U, [n, n]
  std::vector<uint8_t> dead;  // [n] 1: H_jj = 0, the channel never fires; H_jj was set to 1
  double lambda = 0;          // λ that H could be factored with
  double damping = 0;         // λ as a share of the mean diagonal
};

/// U of scale · h; reads the upper triangle of h [n, n]. When H + λI is not positive definite λ grows
/// tenfold, up to the mean diagonal; beyond that the status is SLIM_NOT_POSITIVE_DEFINITE.
Status factorInverse(const float* h, size_t n, float scale, Damping damping, ThreadPool& pool,
                     const CancelFlag& cancelled, InverseFactor& out);

}  // namespace slim
