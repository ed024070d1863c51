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

/// Calibration inputs that the KL is taken over, [tokens, cols] row-major, and the number of sequences it is
/// averaged over.
struct Samples {
  const float* data;
  size_t tokens;
  double sequences;
};

/// Candidate i = 1 … ⌊n/2⌋ − 1 of n groups: the i least salient groups get bits − 1, the i most salient bits
/// + 1. The one whose outputs have the least KL(quantized ‖ original) wins. All groups get `bits` where there
/// is no candidate (n < 4) or no room (1 bit has no width below it, 8 bits none above).
Status allocateBits(const GroupedWeight& weight, const Samples& samples, const std::vector<double>& salience,
                    int bits, ThreadPool& pool, const CancelFlag& cancelled, BitAllocation& out);

}  // namespace slim
