#include "quant/quantize_linear.h"

#include <string>

#include "core/stopwatch.h"
#include "cpu/gemm.h"
#include "quant/output_error.h"
#include "quant/salience.h"

namespace slim {

Status checkGroupSize(size_t groupSize, size_t cols) {
  if (groupSize >= 1 && groupSize <= cols) return Status::success();
  Status status = Status::error("SLIM_GROUP_SIZE", "A group of " + std::to_string(groupSize) +
                                                       " channels does not fit a layer of " +
                                                       std::to_string(cols) + " input channels");
  status.parameter = "groupSize";
  status.expected = "1 to " + std::to_string(cols);
  status.received = std::to_string(groupSize);
  status.remedy = "Choose a smaller group size, or leave the layer out by an override";
  return status;
}

Status checkGroupBits(const std::vector<uint8_t>& groupBits, const Groups& groups) {
  if (groupBits.size() != groups.count())
    return Status::invalidArgument("groupBits", std::to_string(groups.count()) + " widths, one a group",
                                   std::to_string(groupBits.size()));
  for (size_t g = 0; g < groupBits.size(); ++g)
    if (groupBits[g] < 1 || groupBits[g] > 8)
      return Status::invalidArgument("groupBits[" + std::to_string(g) + "]", "1 to 8 bits",
                                     std::to_string(groupBits[g]));
  return Status::success();
}

Status checkHessian(size_t channels, size_t sequences, size_t cols) {
  if (channels != cols)
    return Status::invalidArgument("hessian",
                                   "a Hessian of the weight's " + std::to_string(cols) + " input channels",
                                   std::to_string(channels));
  if (sequences == 0)
    return Status::invalidArgument("hessian", "a Hessian with calibration inputs", "an empty one");
  return Status::success();
}

Status startingBits(const QuantizeLinearOptions& options, const Groups& groups, std::vector<uint8_t>& out) {
  SLIM_RETURN_IF_ERROR(checkGroupSize(groups.groupSize, groups.cols));
  if (options.allocation == QuantizeLinearOptions::Allocation::Given) {
    SLIM_RETURN_IF_ERROR(checkGroupBits(options.groupBits, groups));
    out = options.groupBits;
  } else {
    out.assign(groups.count(), uint8_t(options.bits));
  }
  return Status::success();
}

Status loadWeight(const Tensor& weight, ThreadPool& pool, const CancelFlag& cancelled,
                  std::vector<float>& out) {
  if (weight.shape().size() != 2 || weight.elements() == 0)
    return Status::invalidArgument("weight", "a matrix [rows, cols]",
                                   "a tensor of " + std::to_string(weight.shape().size()) +
                                       " dimensions and " + std::to_string(weight.elements()) + " elements");
  size_t index;
  SLIM_RETURN_IF_ERROR(findNonFinite(weight, pool, cancelled, index));
  if (index != weight.elements())
    return Status::error("SLIM_TENSOR_NON_FINITE", "The weight holds a NaN or an infinity at row " +
                                                       std::to_string(index / weight.cols()) + ", column " +
                                                       std::to_string(index % weight.cols()));
  out.resize(weight.elements());
  pool.parallelFor(weight.rows(), [&](size_t r, int) {
    readRow(weight.dtype(), weight.row(r), 0, weight.cols(), out.data() + r * weight.cols());
  });
  return Status::success();
}

void clearDeadChannels(std::vector<float>& w, const std::vector<uint8_t>& dead) {
  const size_t cols = dead.size();
  for (size_t j = 0; j < cols; ++j)
    if (dead[j])
      for (size_t i = j; i < w.size(); i += cols) w[i] = 0;
}

namespace {

// What the quantized model's inputs X and states S lack of the original's X̃ and S̃, the layer can make up for
// in part: the weight W' that comes closest to S + X W'ᵀ = S̃ + X̃ Wᵀ in the least-squares sense is
// W + [W (X̃ − X)ᵀX + (S̃ − S)ᵀX] (XᵀX)⁻¹, without the second term where the output is not added to states. W
// moves by these shares of the terms. (H + λI)⁻¹ = UᵀU. `w` has lost the columns of dead channels, which may
// have fired in X̃: `original` has not.
void correctDrift(const std::vector<float>& original, size_t rows, const Hessian& hessian,
                  const InverseFactor& factor, const QuantizeLinearOptions& options, ThreadPool& pool,
                  std::vector<float>& w) {
  const size_t n = hessian.size();
  const std::vector<float>&inputs = hessian.inputDrift(), &states = hessian.stateDrift();
  std::vector<float> a(rows * n), b(rows * n);
  gemm(pool, rows, n, n, Operand::rowMajor(original.data(), n), Operand::columnMajor(inputs.data(), n),
       a.data(), n, {.alpha = float(options.inputDriftWeight)});
  if (states.size() == a.size())
    for (size_t i = 0; i < a.size(); ++i) a[i] += float(options.stateDriftWeight) * states[i];
  const float* u = factor.upper.data();
  gemm(pool, rows, n, n, Operand::rowMajor(a.data(), n), Operand::rowMajor(u, n), b.data(), n);
  gemm(pool, rows, n, n, Operand::rowMajor(b.data(), n), Operand::columnMajor(u, n), w.data(), n,
       {.alpha = hessian.scale(), .accumulate = true});
}

}  // namespace

Status quantizeLinear(const Tensor& weight, const Hessian& hessian, const QuantizeLinearOptions& options,
                      ThreadPool& pool, const CancelFlag& cancelled, QuantizedLinear& out) {
  using Allocation = QuantizeLinearOptions::Allocation;
  const auto reading = hessian.reading();
  const size_t rows = weight.rows(), cols = weight.cols();
  const Groups groups{cols, options.groupSize};
  SLIM_RETURN_IF_ERROR(checkHessian(hessian.size(), hessian.sequences(), cols));
  SLIM_RETURN_IF_ERROR(startingBits(options, groups, out.groupBits));
  std::vector<float> w;
  SLIM_RETURN_IF_ERROR(loadWeight(weight, pool, cancelled, w));
  const std::vector<float> original = w;
  if (options.compensate || options.allocation == Allocation::Sba)
    clearDeadChannels(w, hessian.deadChannels());
  const GroupedWeight grouped{w.data(), rows, groups};

  if (options.allocation == Allocation::Sba) {
    const Stopwatch factoring;
    std::shared_ptr<const SalienceFactor> factor;
    SLIM_RETURN_IF_ERROR(hessian.salienceFactor(pool, cancelled, factor));
    out.salienceDamping = factor->damping;
    out.factorSeconds += factoring.seconds();
    const Stopwatch stopwatch;
    out.salience = groupSalience(grouped, factor->diagonal.data(), pool);
    const Samples samples{hessian.samples().data(), hessian.sampleCount(), hessian.sampledSequences()};
    BitAllocation allocation;
    SLIM_RETURN_IF_ERROR(
        allocateBits(grouped, samples, out.salience, options.bits, pool, cancelled, allocation));
    out.groupBits = std::move(allocation.groupBits);
    out.kl = std::move(allocation.kl);
    out.allocationSeconds = stopwatch.seconds();
  }

  std::shared_ptr<const InverseFactor> factor;
  if (options.compensate) {
    const Stopwatch stopwatch;
    SLIM_RETURN_IF_ERROR(hessian.gptqFactor(pool, cancelled, factor));
    out.factorSeconds += stopwatch.seconds();
    out.damping = factor->damping;
  }
  if (options.compensate && !hessian.inputDrift().empty())
    correctDrift(original, rows, hessian, *factor, options, pool, w);
  const std::vector<float> target = w;
  const std::vector<float> h = hessian.diagonal();
  GroupCodes codes;
  SLIM_RETURN_IF_ERROR(quantizeGroups(w, rows, groups, out.groupBits,
                                      {.quantizer = options.quantizer, .h = h.data(), .factor = factor.get()},
                                      pool, cancelled, codes, out.seconds));
  if (options.refinement.sweeps > 0) {
    const Stopwatch stopwatch;
    std::vector<float> damped(hessian.sum(), hessian.sum() + cols * cols);
    for (size_t j = 0; j < cols; ++j) damped[j * cols + j] += float(factor->lambda / hessian.scale());
    SLIM_RETURN_IF_ERROR(
        refine(target.data(), damped.data(), options.refinement, pool, cancelled, codes, out.objective));
    out.refinementSeconds = stopwatch.seconds();
  }
  SLIM_RETURN_IF_ERROR(PackedMatrix::pack(codes, out.packed));
  return relativeOutputError(original.data(), *out.packed, hessian.sum(), pool, cancelled, out.relativeError);
}

}  // namespace slim
