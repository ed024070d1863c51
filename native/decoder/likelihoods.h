// Drawing an index by likelihoods that need not add up to 1.
#pragma once
#include <algorithm>
#include <vector>

#include "core/partial_sum.h"

namespace slim {

/// The sum of likelihoods chunk by chunk, so that an index is found without adding them up again.
class ChunkSums {
 public:
  ChunkSums(const float* likelihoods, size_t n) : likelihoods_(likelihoods), n_(n) {
    for (size_t start = 0; start < n; start += kChunk) {
      sums_.push_back(
          partialSum(std::min(kChunk, n - start), [&](size_t i) { return likelihoods[start + i]; }));
      total_ += sums_.back();
    }
  }
  double total() const { return total_; }

  /// The first index up to which the likelihoods add up to more than `target`; the last one that is likely at
  /// all where rounding leaves a rest.
  size_t find(double target) const {
    size_t i = 0;
    for (size_t c = 0; c + 1 < sums_.size() && target >= sums_[c]; ++c, i += kChunk) target -= sums_[c];
    for (; i < n_; ++i) {
      target -= likelihoods_[i];
      if (target < 0) return i;
    }
    while (i > 1 && !(likelihoods_[i - 1] > 0)) --i;
    return i - 1;
  }

 private:
  static constexpr size_t kChunk = 1024;

  const float* likelihoods_;
  size_t n_;
  std::vector<double> sums_;
  double total_ = 0;
};

}  // namespace slim
