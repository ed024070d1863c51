// The factor that GPTQ and the salience read: U, upper triangular, with (H + λI)⁻¹ = UᵀU.
//
// No inverse of H is formed: factor H + λI = P Pᵀ with P upper triangular (a Cholesky factorization that
// starts at the last column); then (H + λI)⁻¹ = P⁻ᵀ P⁻¹, so U = P⁻¹.
#pragma once
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "quant/damping.h"

namespace slim {

/// Replaces the upper triangle of a [n, n] (row-major) by P, A = P Pᵀ, and the rest by zeros. False: not
/// positive definite (a pivot is not a positive finite number), or cancelled; `a` is then half done.
bool factorUpper(float* a, size_t n, ThreadPool& pool, const CancelFlag& cancelled);

/// Replaces an upper triangular P (zeros below the diagonal) by its inverse; half of it when cancelled.
void invertUpper(float* p, size_t n, ThreadPool& pool, const CancelFlag& cancelled);

struct InverseFactor : DampedFactor {
  std::vector<float> upper;  // U, [n, n]
};

/// U of scale · h, damped (factorDamped); reads the upper triangle of h [n, n].
Status factorInverse(const float* h, size_t n, float scale, Damping damping, ThreadPool& pool,
                     const CancelFlag& cancelled, InverseFactor& out);

}  // namespace slim
