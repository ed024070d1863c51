// The whole step for one linear layer: Hessian and weight to packed matrix.
#pragma once
#include <vector>

#include "core/status.h"
#include "quant/bit_allocation.h"
#include "quant/gptq.h"
#include "quant/hessian.h"
#include "quant/refinement.h"

namespace slim {

struct QuantizeLinearOptions {
  int bits = 2;
  size_t groupSize = 128;
  enum class Allocation { Uniform, Sba, Given } allocation = Allocation::Uniform;
  std::vector<uint8_t> groupBits;  // of Allocation::Given
  Quantizer quantizer = Quantizer::MinMax;
  bool compensate = false;  // GPTQ
  Refinement refinement;
  /// How far W moves towards what makes up for the drift of its inputs, and of the states that its output is
  /// added to: 0 not at all, 1 all the way.
  double inputDriftWeight = 0, stateDriftWeight = 0;
};

struct QuantizedLinear {
  std::shared_ptr<PackedMatrix> packed;
  std::vector<uint8_t> groupBits;
  double relativeError = 0;
  double damping = 0;            // of GPTQ's factor, as a share of the mean diagonal
  double salienceDamping = 0;    // of the salience's factor, λ itself; 0: SBA did not ask
  std::vector<double> kl;        // of SBA's candidates
  std::vector<double> salience;  // of the groups, if SBA asked
  double factorSeconds = 0, allocationSeconds = 0;
  QuantizationSeconds seconds;
  double refinementSeconds = 0;
  std::vector<double> objective;  // of the refinement: before, and after each sweep
};

/// A group size that a layer can have: 1 … cols. Else SLIM_GROUP_SIZE.
Status checkGroupSize(size_t groupSize, size_t cols);
/// One width of 1 … 8 for every group.
Status checkGroupBits(const std::vector<uint8_t>& groupBits, const Groups& groups);
/// A Hessian of `channels` with inputs, for a weight of `cols` input channels.
Status checkHessian(size_t channels, size_t sequences, size_t cols);
/// The widths that the options say, all `bits` where SBA is to choose; checked, and the groups' size too.
Status startingBits(const QuantizeLinearOptions& options, const Groups& groups, std::vector<uint8_t>& out);
/// A weight as finite float32, a copy.
Status loadWeight(const Tensor& weight, ThreadPool& pool, const CancelFlag& cancelled,
                  std::vector<float>& out);
/// Zeros the columns of channels that never fire: nothing in the calibration says what they should be, and
/// they must not widen a group's range.
void clearDeadChannels(std::vector<float>& w, const std::vector<uint8_t>& dead);

/// `weight` [rows, cols] in any float dtype; the Hessian's size is cols.
Status quantizeLinear(const Tensor& weight, const Hessian& hessian, const QuantizeLinearOptions& options,
                      ThreadPool& pool, const CancelFlag& cancelled, QuantizedLinear& out);

}  // namespace slim
