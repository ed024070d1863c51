#include "cuda/device_hessian.h"

#include <algorithm>

#include "cuda/multiply.h"

namespace slim::cuda {

Status DeviceHessian::reserveSum() {
  if (sum_.count() > 0) return Status::success();
  SLIM_RETURN_IF_ERROR(device_->allocate(size_ * size_, "a Hessian", sum_));
  return device_->fill(sum_.address(), 0, sum_.bytes());
}

// sum [width, size] += Σ (original − quantized)ᵀ x.
Status DeviceHessian::addDrift(const DeviceRows& original, const DeviceRows& quantized, size_t width,
                               DeviceAddress x, size_t tokens, size_t stride, DeviceBuffer<float>& sum) {
  DeviceBuffer<float> drift;
  SLIM_RETURN_IF_ERROR(device_->allocate(tokens * width, "the drift of inputs", drift));
  SLIM_RETURN_IF_ERROR(copyRows(*device_, tokens, width, original, quantized, {drift.address(), width}));
  const bool first = sum.count() == 0;
  if (first) SLIM_RETURN_IF_ERROR(device_->allocate(width * size_, "the sum of drifts", sum));
  return multiply(*device_, width, size_, tokens, DeviceOperand::columnMajor(drift.address(), width),
                  DeviceOperand::columnMajor(x, stride), sum.address(), size_, {.accumulate = !first});
}

// Every so many tokens, counted over all adds.
Status DeviceHessian::keepSamples(DeviceAddress x, size_t tokens, size_t stride) {
  if (keepEvery_ == 0) return Status::success();
  const size_t skip = (keepEvery_ - tokens_ % keepEvery_) % keepEvery_;
  if (skip >= tokens) return Status::success();
  const size_t kept = (tokens - skip + keepEvery_ - 1) / keepEvery_;
  const size_t used = sampleCount_ * size_, needed = used + kept * size_;
  if (samples_.count() < needed) {
    DeviceBuffer<float> larger;
    SLIM_RETURN_IF_ERROR(device_->allocate(std::max(needed, 2 * used), "kept inputs", larger));
    SLIM_RETURN_IF_ERROR(device_->copyOnDevice(larger.address(), samples_.address(), used * sizeof(float)));
    samples_ = std::move(larger);
  }
  SLIM_RETURN_IF_ERROR(copyRows(*device_, kept, size_,
                                {x + skip * stride * sizeof(float), keepEvery_ * stride}, {},
                                {samples_.address() + used * sizeof(float), size_}));
  sampleCount_ += kept;
  return Status::success();
}

Status DeviceHessian::add(DeviceAddress x, size_t tokens, size_t stride, size_t sequences,
                          const DeviceOriginalInputs& original) {
  SLIM_RETURN_IF_ERROR(reserveSum());
  mirrored_ = false;
  gptqFactor_.reset();
  salienceFactor_.reset();
  if (tokens > 0) {
    if (original.x)
      SLIM_RETURN_IF_ERROR(
          addDrift({original.x, stride}, {x, stride}, size_, x, tokens, stride, inputDrift_));
    if (original.states)
      SLIM_RETURN_IF_ERROR(addDrift({original.states, original.stateSize},
                                    {original.quantizedStates, original.stateSize}, original.stateSize, x,
                                    tokens, stride, stateDrift_));
    const auto channels = DeviceOperand::columnMajor(x, stride);
    SLIM_RETURN_IF_ERROR(multiply(*device_, size_, size_, tokens, channels, channels, sum_.address(), size_,
                                  {.accumulate = true, .upperOnly = true}));
    SLIM_RETURN_IF_ERROR(keepSamples(x, tokens, stride));
  }
  tokens_ += tokens;
  sequences_ += sequences;
  return Status::success();
}

Status DeviceHessian::sum(DeviceAddress& out) {
  SLIM_RETURN_IF_ERROR(reserveSum());
  if (!mirrored_) SLIM_RETURN_IF_ERROR(mirrorUpper(*device_, sum_.address(), size_));
  mirrored_ = true;
  out = sum_.address();
  return Status::success();
}

Status DeviceHessian::gptqFactor(const CancelFlag& cancelled,
                                 std::shared_ptr<const DeviceInverseFactor>& out) {
  if (!gptqFactor_) {
    SLIM_RETURN_IF_ERROR(reserveSum());
    auto factor = std::make_shared<DeviceInverseFactor>();
    SLIM_RETURN_IF_ERROR(
        factorInverse(*device_, sum_.address(), size_, scale(), Damping::Gptq, cancelled, *factor));
    gptqFactor_ = std::move(factor);
  }
  out = gptqFactor_;
  return Status::success();
}

Status DeviceHessian::salienceFactor(const CancelFlag& cancelled,
                                     std::shared_ptr<const SalienceFactor>& out) {
  if (!salienceFactor_) {
    SLIM_RETURN_IF_ERROR(reserveSum());
    DeviceInverseFactor factor;
    SLIM_RETURN_IF_ERROR(
        factorInverse(*device_, sum_.address(), size_, scale(), Damping::Salience, cancelled, factor));
    auto kept = std::make_shared<SalienceFactor>();
    SLIM_RETURN_IF_ERROR(downloadDiagonal(*device_, factor.upper.address(), size_, kept->diagonal));
    kept->damping = factor.lambda;
    salienceFactor_ = std::move(kept);
  }
  out = salienceFactor_;
  return Status::success();
}

Status DeviceHessian::diagonal(std::vector<float>& out) {
  SLIM_RETURN_IF_ERROR(reserveSum());
  return downloadDiagonal(*device_, sum_.address(), size_, out);
}

Status DeviceHessian::deadChannels(std::vector<uint8_t>& out) {
  std::vector<float> sums;
  SLIM_RETURN_IF_ERROR(diagonal(sums));
  out.resize(size_);
  std::transform(sums.begin(), sums.end(), out.begin(), [](float sum) { return uint8_t(sum == 0); });
  return Status::success();
}

}  // namespace slim::cuda
