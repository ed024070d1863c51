#include "cuda/quantize_linear.h"

#include "core/stopwatch.h"
#include "cuda/bit_allocation.h"
#include "cuda/group_quantization.h"
#include "cuda/matrix_operations.h"
#include "cuda/multiply.h"
#include "cuda/output_error.h"
#include "cuda/refinement.h"
#include "cuda/salience.h"

namespace slim::cuda {
namespace {

using Allocation = QuantizeLinearOptions::Allocation;

class LayerQuantization {
 public:
  LayerQuantization(Device& device, size_t rows, const Groups& groups, DeviceHessian& hessian,
                    const QuantizeLinearOptions& options, const CancelFlag& cancelled, QuantizedLinear& out)
      : device_(device),
        rows_(rows),
        groups_(groups),
        hessian_(hessian),
        options_(options),
        cancelled_(cancelled),
        out_(out) {}

  Status run(const std::vector<float>& weight) {
    SLIM_RETURN_IF_ERROR(device_.upload(weight.data(), weight.size(), "weight", original_));
    SLIM_RETURN_IF_ERROR(device_.allocate(weight.size(), "weight to quantize", w_));
    SLIM_RETURN_IF_ERROR(device_.copyOnDevice(w_.address(), original_.address(), original_.bytes()));
    if (options_.compensate || options_.allocation == Allocation::Sba) {
      std::vector<uint8_t> dead;
      SLIM_RETURN_IF_ERROR(hessian_.deadChannels(dead));
      SLIM_RETURN_IF_ERROR(clearColumns(device_, w_.address(), rows_, dead));
    }
    if (options_.allocation == Allocation::Sba) SLIM_RETURN_IF_ERROR(allocate());
    if (options_.compensate) SLIM_RETURN_IF_ERROR(factor());
    if (options_.compensate && hessian_.inputDrift().count() > 0) SLIM_RETURN_IF_ERROR(correctDrift());
    DeviceBuffer<float> target;
    if (options_.refinement.sweeps > 0) {
      SLIM_RETURN_IF_ERROR(device_.allocate(w_.count(), "weight to come close to", target));
      SLIM_RETURN_IF_ERROR(device_.copyOnDevice(target.address(), w_.address(), w_.bytes()));
    }
    DeviceGroupCodes codes;
    SLIM_RETURN_IF_ERROR(quantize(codes));
    if (options_.refinement.sweeps > 0) SLIM_RETURN_IF_ERROR(refineCodes(target.address(), codes));
    SLIM_RETURN_IF_ERROR(pack(device_, codes, out_.packed));
    SLIM_RETURN_IF_ERROR(dequantize(device_, codes, w_.address()));
    DeviceAddress sum;
    SLIM_RETURN_IF_ERROR(hessian_.sum(sum));
    return relativeOutputError(device_, original_.address(), w_.address(), rows_, groups_.cols, sum,
                               out_.relativeError);
  }

 private:
  Status allocate() {
    const Stopwatch factoring;
    std::shared_ptr<const SalienceFactor> factor;
    SLIM_RETURN_IF_ERROR(hessian_.salienceFactor(cancelled_, factor));
    out_.salienceDamping = factor->damping;
    out_.factorSeconds += factoring.seconds();
    const Stopwatch stopwatch;
    SLIM_RETURN_IF_ERROR(
        groupSalience(device_, w_.address(), rows_, groups_, factor->diagonal, out_.salience));
    BitAllocation allocation;
    const DeviceSamples samples{hessian_.samples(), hessian_.sampleCount(), hessian_.sampledSequences()};
    SLIM_RETURN_IF_ERROR(allocateBits(device_, w_.address(), rows_, groups_, samples, out_.salience,
                                      options_.bits, cancelled_, allocation));
    out_.groupBits = std::move(allocation.groupBits);
    out_.kl = std::move(allocation.kl);
    out_.allocationSeconds = stopwatch.seconds();
    return Status::success();
  }

  Status factor() {
    const Stopwatch stopwatch;
    SLIM_RETURN_IF_ERROR(hessian_.gptqFactor(cancelled_, factor_));
    SLIM_RETURN_IF_ERROR(device_.synchronize());
    out_.factorSeconds += stopwatch.seconds();
    out_.damping = factor_->damping;
    return Status::success();
  }

  /// Towards the weight that makes up for the drift of inputs and states (slim::quantizeLinear).
  Status correctDrift() {
    const size_t n = groups_.cols;
    const DeviceBuffer<float>&inputs = hessian_.inputDrift(), &states = hessian_.stateDrift();
    DeviceBuffer<float> a, b;
    SLIM_RETURN_IF_ERROR(device_.allocate(rows_ * n, "drift", a));
    SLIM_RETURN_IF_ERROR(device_.allocate(rows_ * n, "drift over a factor", b));
    SLIM_RETURN_IF_ERROR(multiply(device_, rows_, n, n, DeviceOperand::rowMajor(original_.address(), n),
                                  DeviceOperand::columnMajor(inputs.address(), n), a.address(), n,
                                  {.alpha = float(options_.inputDriftWeight)}));
    if (states.count() == a.count())
      SLIM_RETURN_IF_ERROR(
          addScaled(device_, a.count(), float(options_.stateDriftWeight), states.address(), a.address()));
    const DeviceAddress u = factor_->upper.address();
    SLIM_RETURN_IF_ERROR(multiply(device_, rows_, n, n, DeviceOperand::rowMajor(a.address(), n),
                                  DeviceOperand::rowMajor(u, n), b.address(), n));
    return multiply(device_, rows_, n, n, DeviceOperand::rowMajor(b.address(), n),
                    DeviceOperand::columnMajor(u, n), w_.address(), n,
                    {.alpha = hessian_.scale(), .accumulate = true});
  }

  Status quantize(DeviceGroupCodes& codes) {
    const Stopwatch stopwatch;
    std::vector<float> diagonal;
    SLIM_RETURN_IF_ERROR(hessian_.diagonal(diagonal));
    DeviceBuffer<float> h;
    SLIM_RETURN_IF_ERROR(device_.upload(diagonal.data(), diagonal.size(), "the Hessian's diagonal", h));
    SLIM_RETURN_IF_ERROR(quantizeGroups(
        device_, w_.address(), rows_, groups_, out_.groupBits,
        {.quantizer = options_.quantizer, .h = h.address(), .factor = factor_.get()}, cancelled_, codes));
    SLIM_RETURN_IF_ERROR(device_.synchronize());
    (factor_ ? out_.seconds.compensation : out_.seconds.quantizer) += stopwatch.seconds();
    return Status::success();
  }

  Status refineCodes(DeviceAddress target, DeviceGroupCodes& codes) {
    const Stopwatch stopwatch;
    const size_t cols = groups_.cols;
    DeviceAddress sum;
    SLIM_RETURN_IF_ERROR(hessian_.sum(sum));
    DeviceBuffer<float> damped;
    SLIM_RETURN_IF_ERROR(device_.allocate(cols * cols, "damped Hessian", damped));
    SLIM_RETURN_IF_ERROR(device_.copyOnDevice(damped.address(), sum, damped.bytes()));
    SLIM_RETURN_IF_ERROR(
        addToDiagonal(device_, damped.address(), cols, float(factor_->lambda / hessian_.scale())));
    SLIM_RETURN_IF_ERROR(
        refine(device_, target, damped.address(), options_.refinement, cancelled_, codes, out_.objective));
    out_.refinementSeconds = stopwatch.seconds();
    return Status::success();
  }

  Device& device_;
  const size_t rows_;
  const Groups groups_;
  DeviceHessian& hessian_;
  const QuantizeLinearOptions& options_;
  const CancelFlag& cancelled_;
  QuantizedLinear& out_;
  std::shared_ptr<const DeviceInverseFactor> factor_;
  DeviceBuffer<float> original_, w_;  // [rows, cols]
};

}  // namespace

Status quantizeLinear(const Tensor& weight, DeviceHessian& hessian, const QuantizeLinearOptions& options,
                      ThreadPool& pool, const CancelFlag& cancelled, QuantizedLinear& out) {
  const Groups groups{weight.cols(), options.groupSize};
  {
    const auto lock = hessian.device()->use();
    SLIM_RETURN_IF_ERROR(checkHessian(hessian.size(), hessian.sequences(), weight.cols()));
  }
  SLIM_RETURN_IF_ERROR(startingBits(options, groups, out.groupBits));
  SLIM_RETURN_IF_ERROR(checkDeviceGroupSize(groups));
  std::vector<float> w;
  SLIM_RETURN_IF_ERROR(loadWeight(weight, pool, cancelled, w));
  const auto lock = hessian.device()->use();
  return LayerQuantization(*hessian.device(), weight.rows(), groups, hessian, options, cancelled, out).run(w);
}

}  // namespace slim::cuda
