// Sums in a fixed order of additions that compilers turn into vector code.
#pragma once
#include <cstddef>

namespace slim {

constexpr size_t kPartialSums = 16;

/// Σ term(i), i < n: sixteen float32 partial sums, added up in float64.
template <typename Term>
inline double partialSum(size_t n, Term term) {
  float partial[kPartialSums] = {};
  size_t i = 0;
  for (; i + kPartialSums <= n; i += kPartialSums)
    for (size_t j = 0; j < kPartialSums; ++j) partial[j] += term(i + j);
  double total = 0;
  for (const float p : partial) total += p;
  for (; i < n; ++i) total += term(i);
  return total;
}

}  // namespace slim
