#include "quant/cholesky.h"

#include <algorithm>
#include <cmath>

#include "cpu/gemm.h"

namespace slim {
namespace {

constexpr size_t kBlock = 64;  // columns factored at a time; the rest of the work is matrix products
constexpr size_t kTile = 32;   // rows or columns that one task solves for

// A diagonal block in float64: what is left of an ill-conditioned H after the trailing updates is small, and
// the division by it is where float32 would lose the most.
struct DiagonalBlock {
  size_t size;
  double at[kBlock][kBlock];

  DiagonalBlock(const float* a, size_t stride, size_t size) : size(size) {
    for (size_t i = 0; i < size; ++i)
      for (size_t j = 0; j < size; ++j) at[i][j] = j < i ? 0.0 : double(a[i * stride + j]);
  }

  void store(float* a, size_t stride) const {
    for (size_t i = 0; i < size; ++i)
      for (size_t j = i; j < size; ++j) a[i * stride + j] = float(at[i][j]);
  }

  // A = P Pᵀ, last column first.
  bool factor() {
    for (size_t j = size; j-- > 0;) {
      for (size_t i = j + 1; i-- > 0;) {
        double sum = at[i][j];
        for (size_t k = j + 1; k < size; ++k) sum -= at[i][k] * at[j][k];
        if (i < j) {
          at[i][j] = sum / at[j][j];
        } else if (sum > 0 && std::isfinite(sum)) {
          at[j][j] = std::sqrt(sum);
        } else {
          return false;
        }
      }
    }
    return true;
  }

  // P⁻¹, last column first: a column's inverse needs the columns before it as they were.
  void invert() {
    for (size_t j = size; j-- > 0;) {
      at[j][j] = 1 / at[j][j];
      for (size_t i = j; i-- > 0;) {
        double sum = 0;
        for (size_t k = i + 1; k <= j; ++k) sum += at[i][k] * at[k][j];
        at[i][j] = -sum / at[i][i];
      }
    }
  }
};

}  // namespace

bool factorUpper(float* a, size_t n, ThreadPool& pool, const CancelFlag& cancelled) {
  for (size_t end = n; end > 0;) {
    if (cancelled.load()) return false;
    const size_t begin = end > kBlock ? end - kBlock : 0, size = end - begin;
    DiagonalBlock block(a + begin * n + begin, n, size);
    if (!block.factor()) return false;
    block.store(a + begin * n + begin, n);

    // The rows above: X Pᵀ = A, solved for kTile rows at once, in float64.
    pool.parallelFor((begin + kTile - 1) / kTile, [&](size_t tile, int) {
      const size_t row = tile * kTile, rows = std::min(kTile, begin - row);
      double x[kBlock][kTile] = {};
      for (size_t r = 0; r < rows; ++r)
        for (size_t j = 0; j < size; ++j) x[j][r] = a[(row + r) * n + begin + j];
      for (size_t j = size; j-- > 0;) {
        for (size_t k = j + 1; k < size; ++k)
          for (size_t r = 0; r < kTile; ++r) x[j][r] -= x[k][r] * block.at[j][k];
        for (size_t r = 0; r < kTile; ++r) x[j][r] /= block.at[j][j];
      }
      for (size_t r = 0; r < rows; ++r)
        for (size_t j = 0; j < size; ++j) a[(row + r) * n + begin + j] = float(x[j][r]);
    });

    // What is left: A −= X Xᵀ. C and the operands are different columns of the same rows.
    if (begin > 0) {
      const Operand x = Operand::rowMajor(a + begin, n);
      gemm(pool, begin, begin, size, x, x, a, n, {.alpha = -1, .accumulate = true, .upperOnly = true});
    }
    end = begin;
  }
  for (size_t i = 1; i < n; ++i) std::fill_n(a + i * n, i, 0.0f);
  return true;
}

void invertUpper(float* p, size_t n, ThreadPool& pool, const CancelFlag& cancelled) {
  std::vector<float> product(kBlock * n);
  for (size_t end = n; end > 0 && !cancelled.load();) {
    const size_t begin = end > kBlock ? end - kBlock : 0, size = end - begin, rest = n - end;
    DiagonalBlock block(p + begin * n + begin, n, size);
    block.invert();
    block.store(p + begin * n + begin, n);

    // Right of the diagonal block: U = −P_bb⁻¹ · P_b,rest · U_rest, U_rest being there already.
    if (rest > 0) {
      gemm(pool, size, rest, rest, Operand::rowMajor(p + begin * n + end, n),
           Operand::columnMajor(p + end * n + end, n), product.data(), rest);
      pool.parallelFor((rest + kTile - 1) / kTile, [&](size_t tile, int) {
        const size_t col = tile * kTile, cols = std::min(kTile, rest - col);
        double x[kBlock][kTile] = {};
        for (size_t k = 0; k < size; ++k)
          for (size_t c = 0; c < cols; ++c) x[k][c] = product[k * rest + col + c];
        for (size_t i = 0; i < size; ++i) {
          double sum[kTile] = {};
          for (size_t k = i; k < size; ++k)
            for (size_t c = 0; c < kTile; ++c) sum[c] -= block.at[i][k] * x[k][c];
          for (size_t c = 0; c < cols; ++c) p[(begin + i) * n + end + col + c] = float(sum[c]);
        }
      });
    }
    end = begin;
  }
}

Status factorInverse(const float* h, size_t n, float scale, Damping damping, ThreadPool& pool,
                     const CancelFlag& cancelled, InverseFactor& out) {
  InverseFactor factor;
  std::vector<float> diagonal(n);
  for (size_t j = 0; j < n; ++j) diagonal[j] = h[j * n + j];
  factor.upper.resize(n * n);
  const auto tryFactor = [&](double added, bool& definite) {
    for (size_t i = 0; i < n; ++i) {
      float* row = factor.upper.data() + i * n;
      for (size_t j = i; j < n; ++j) row[j] = scale * h[i * n + j];
      row[i] = float((diagonal[i] == 0 ? 1.0 : double(row[i])) + added);
    }
    definite = factorUpper(factor.upper.data(), n, pool, cancelled);
    if (definite) invertUpper(factor.upper.data(), n, pool, cancelled);
    return cancelled.load() ? Status::aborted() : Status::success();
  };
  SLIM_RETURN_IF_ERROR(factorDamped(diagonal, scale, damping, cancelled, tryFactor, factor));
  out = std::move(factor);
  return Status::success();
}

}  // namespace slim
