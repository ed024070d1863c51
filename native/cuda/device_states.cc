#include "cuda/device_states.h"

#include <cstring>

#include "cuda/device_linear.h"

namespace slim::cuda {
namespace {

/// This share of the device's memory is left for blocks, Hessians and their factors, however many sets of
/// values there are: a staged pass beside the original model's has six.
constexpr double kReserve = 0.5;

}  // namespace

Status DeviceStates::make(std::shared_ptr<Device> device, size_t tokens, size_t width, const Options& options,
                          std::shared_ptr<DeviceStates>& out) {
  auto states = std::make_shared<DeviceStates>();
  states->tokens_ = tokens;
  states->width_ = width;
  states->device_ = device;
  const auto lock = device->use();
  size_t free = 0;
  SLIM_RETURN_IF_ERROR(device->freeBytes(free));
  free += device->pool()->reservedBytes() - device->pool()->usedBytes();
  const size_t bytes = tokens * states->rowBytes();
  const double left = double(free) - double(bytes), reserve = kReserve * double(device->info().memoryBytes);
  if (options.onHost || left < reserve) {
    SLIM_RETURN_IF_ERROR(
        Tensor::allocate(DType::F32, {tokens, width}, states->host_, options.spillDirectory));
  } else {
    SLIM_RETURN_IF_ERROR(device->allocate(tokens * width, "states", states->values_));
    SLIM_RETURN_IF_ERROR(device->fill(states->values_.address(), 0, bytes));
  }
  out = std::move(states);
  return Status::success();
}

Status DeviceStates::make(std::shared_ptr<Device> device, const Tensor& source, const Options& options,
                          std::shared_ptr<DeviceStates>& out) {
  std::shared_ptr<DeviceStates> states;
  SLIM_RETURN_IF_ERROR(make(device, source.rows(), source.cols(), options, states));
  if (states->host_) {
    std::memcpy(states->host_->data(), source.data(), source.bytes());
  } else {
    const auto lock = device->use();
    SLIM_RETURN_IF_ERROR(device->copyToDevice(states->values_.address(), source.data(), source.bytes()));
    SLIM_RETURN_IF_ERROR(device->synchronize());
  }
  out = std::move(states);
  return Status::success();
}

Status DeviceStates::tile(size_t first, size_t tokens, Use use, DeviceAddress& out) {
  tileFirst_ = first;
  tileTokens_ = tokens;
  if (!host_) {
    out = values_.address() + first * rowBytes();
    return Status::success();
  }
  SLIM_RETURN_IF_ERROR(reserve(*device_, tokens * width_, "a tile of states", values_));
  out = values_.address();
  if (use == Use::Overwrite) return Status::success();
  return device_->copyToDevice(out, host_->row(first), tokens * rowBytes());
}

Status DeviceStates::commit() {
  if (!host_) return Status::success();
  return device_->copyToHost(const_cast<uint8_t*>(host_->row(tileFirst_)), values_.address(),
                             tileTokens_ * rowBytes());
}

Status DeviceStates::read(TensorPtr& out) const {
  TensorPtr copy;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {tokens_, width_}, copy));
  if (host_)
    std::memcpy(copy->data(), host_->data(), copy->bytes());
  else
    SLIM_RETURN_IF_ERROR(device_->copyToHost(copy->data(), values_.address(), copy->bytes()));
  out = std::move(copy);
  return Status::success();
}

}  // namespace slim::cuda
