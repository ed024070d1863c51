// SBA, salience-determined bit allocation (METHODS: step 3).
#pragma once
#include <cstdint>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "quant/groups.h"

namespace slim {

struct BitAllocation {
  std::vector<uint8_t> groupBits;
  std::vector<double> kl;  // of every candidate i = 1, 2, …; empty where there was nothing to search
};

/// The candidates i = 1 … ⌊n/2⌋ − 1 for n groups, and the choice between them.
class AllocationSearch {
 public:
  AllocationSearch(const std::vector<double>& salience, int bits);

  /// 0 where there is none (n < 4) or no room (1 bit has no width below it, 8 bits none above).
  size_t candidates() const { return candidates_; }
  /// An error where candidates would be judged by no tokens.
  Status check(size_t tokens) const;
  /// The groups that candidate i (from 0 on) changes beside those of the candidates before it.
  size_t low(size_t i) const { return order_[i]; }
  size_t high(size_t i) const { return order_[order_.size() - 1 - i]; }
  /// `divergences` [candidates, tokens] of the outputs.
  void choose(const std::vector<double>& divergences, double sequences, BitAllocation& out) const;

 private:
  int bits_;
  std::vector<size_t> order_;  // groups by salience, the first of equals first
  size_t candidates_;
};

/// Calibration inputs that the KL is taken over, [tokens, cols] row-major, and the number of sequences it is
/// averaged over.
struct Samples {
  const float* data;
  size_t tokens;
  double sequences;
};

/// In candidate i the i least salient groups get bits − 1, the i most salient bits + 1. The one whose outputs
/// have the least KL(quantized ‖ original) wins. All groups get `bits` where there is no candidate.
Status allocateBits(const GroupedWeight& weight, const Samples& samples, const std::vector<double>& salience,
                    int bits, ThreadPool& pool, const CancelFlag& cancelled, BitAllocation& out);

}  // namespace slim
