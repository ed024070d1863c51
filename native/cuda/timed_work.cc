#include "cuda/timed_work.h"

namespace slim::cuda {

TimedWork::~TimedWork() {
  const auto lock = device_->use();
  graph_.reset();
  cublas_.reset();
  for (const Handle event : {before_, after_})
    if (event) device_->driver().eventDestroy(event);
}

Status TimedWork::recordCopies(size_t bytes, size_t repeats) {
  const auto lock = device_->use();
  SLIM_RETURN_IF_ERROR(device_->allocate(bytes, "what is copied", x_));
  SLIM_RETURN_IF_ERROR(device_->allocate(bytes, "the copy", y_));
  SLIM_RETURN_IF_ERROR(device_->fill(x_.address(), 1, bytes));
  return record(repeats, [&](size_t) { return device_->copyOnDevice(y_.address(), x_.address(), bytes); });
}

Status TimedWork::recordPacked(std::vector<std::shared_ptr<PackedLinear>> matrices, const Tensor& x,
                               size_t repeats) {
  const auto lock = device_->use();
  matrices_ = std::move(matrices);
  const size_t tokens = x.rows(), rows = matrices_[0]->rows();
  outputShape_ = {tokens, rows};
  SLIM_RETURN_IF_ERROR(device_->upload(x.data(), x.bytes(), "x", x_));
  SLIM_RETURN_IF_ERROR(device_->allocate(tokens * rows * sizeof(float), "y", y_));
  const DeviceActivations activations{x_.address(), ActivationType::F16, tokens, x.cols()};
  return record(repeats, [&](size_t i) {
    SLIM_RETURN_IF_ERROR(PackedLinear::scaleTokens(*device_, activations, x.cols(), scratch_));
    return matrices_[i % matrices_.size()]->multiply(activations, {y_.address(), rows}, scratch_);
  });
}

Status TimedWork::recordCublas(const std::string& library, const Tensor& weight, size_t copies,
                               const Tensor& x, size_t repeats, std::string& description) {
  const auto lock = device_->use();
  SLIM_RETURN_IF_ERROR(Cublas::open(*device_, library, cublas_));
  description = cublas_->description();
  const size_t tokens = x.rows(), rows = weight.rows(), cols = weight.cols();
  outputType_ = DType::F16;
  outputShape_ = {tokens, rows};
  SLIM_RETURN_IF_ERROR(device_->upload(x.data(), x.bytes(), "x", x_));
  SLIM_RETURN_IF_ERROR(device_->allocate(copies * weight.bytes(), "weights", weights_));
  for (size_t i = 0; i < copies; ++i)
    SLIM_RETURN_IF_ERROR(
        device_->copyToDevice(weights_.address() + i * weight.bytes(), weight.data(), weight.bytes()));
  SLIM_RETURN_IF_ERROR(device_->allocate(dtypeBytes(DType::F16, tokens * rows), "y", y_));
  return record(repeats, [&](size_t i) {
    return cublas_->multiply(x_.address(), weights_.address() + i % copies * weight.bytes(), y_.address(),
                             tokens, rows, cols);
  });
}

// Each copy is worked on once before the recording: scratch memory has its size then, and libraries have
// chosen their kernels.
Status TimedWork::record(size_t repeats, const std::function<Status(size_t)>& queue) {
  const auto all = [&](size_t count) {
    for (size_t i = 0; i < count; ++i) SLIM_RETURN_IF_ERROR(queue(i));
    return Status::success();
  };
  SLIM_RETURN_IF_ERROR(all(std::min(repeats, std::max<size_t>(1, matrices_.size()))));
  SLIM_RETURN_IF_ERROR(device_->synchronize());
  const Driver& driver = device_->driver();
  for (Handle* event : {&before_, &after_})
    if (!*event) SLIM_RETURN_IF_ERROR(driver.check(driver.eventCreate(event, 0), "cuEventCreate"));
  repeats_ = repeats;
  return device_->capture([&] { return all(repeats); }, graph_);
}

Status TimedWork::turn(double& seconds) {
  const auto lock = device_->use();
  if (!graph_) return Status::error("SLIM_INVALID_ARGUMENT", "Nothing is recorded to be timed");
  SLIM_RETURN_IF_ERROR(timeLaunch(seconds));
  seconds /= double(repeats_);
  return Status::success();
}

Status TimedWork::timeLaunch(double& seconds) {
  const Driver& driver = device_->driver();
  const Handle stream = device_->stream();
  SLIM_RETURN_IF_ERROR(driver.check(driver.eventRecord(before_, stream), "cuEventRecord"));
  SLIM_RETURN_IF_ERROR(graph_->launch());
  SLIM_RETURN_IF_ERROR(driver.check(driver.eventRecord(after_, stream), "cuEventRecord"));
  SLIM_RETURN_IF_ERROR(driver.check(driver.eventSynchronize(after_), "cuEventSynchronize"));
  float milliseconds = 0;
  SLIM_RETURN_IF_ERROR(
      driver.check(driver.eventElapsedTime(&milliseconds, before_, after_), "cuEventElapsedTime"));
  seconds = double(milliseconds) / 1e3;
  return Status::success();
}

Status TimedWork::output(TensorPtr& out) {
  const auto lock = device_->use();
  if (outputShape_.empty()) return Status::error("SLIM_INVALID_ARGUMENT", "No product is recorded");
  SLIM_RETURN_IF_ERROR(Tensor::allocate(outputType_, outputShape_, out));
  return device_->copyToHost(out->data(), y_.address(), out->bytes());
}

}  // namespace slim::cuda
