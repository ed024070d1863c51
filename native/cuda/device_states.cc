#include "cuda/device_states.h"

#include <cstring>

#include "cuda/device_linear.h"

namespace slim::cuda {
namespace {

/// This share of the device's memory is left for blocks, Hessians and their factors, however many sets of
/// values there are: a staged pass beside the original model's has six, a walk of the Fisher information one
/// for every block.
constexpr double kReserve = 0.5;

}  // namespace

Status DeviceStates::place(std::shared_ptr<Device> device, size_t tokens, size_t width,
                           const Options& options, std::shared_ptr<DeviceStates>& out, bool& onDevice) {
  auto states = std::make_shared<DeviceStates>();
  states->tokens_ = tokens;
  states->width_ = width;
  states->device_ = device;
  size_t free = 0;
  SLIM_RETURN_IF_ERROR(device->freeBytes(free));
  free += device->pool()->reservedBytes() - device->pool()->usedBytes();
  const double left = double(free) - double(tokens * states->rowBytes()),
               reserve = kReserve * double(device->info().memoryBytes);
  onDevice = !options.onHost && left >= reserve;
  if (onDevice) SLIM_RETURN_IF_ERROR(device->allocate(tokens * width, "states", states->values_));
  out = std::move(states);
  return Status::success();
}

Status DeviceStates::make(std::shared_ptr<Device> device, size_t tokens, size_t width, const Options& options,
                          std::shared_ptr<DeviceStates>& out) {
  const auto lock = device->use();
  bool onDevice = false;
  SLIM_RETURN_IF_ERROR(place(device, tokens, width, options, out, onDevice));
  return onDevice ? device->fill(out->values_.address(), 0, out->values_.bytes())
                  : Tensor::allocate(DType::F32, {tokens, width}, out->host_, options.spillDirectory);
}

Status DeviceStates::make(std::shared_ptr<Device> device, TensorPtr source, const Options& options,
                          std::shared_ptr<DeviceStates>& out) {
  const auto lock = device->use();
  bool onDevice = false;
  SLIM_RETURN_IF_ERROR(place(device, source->rows(), source->cols(), options, out, onDevice));
  if (!onDevice) {
    out->host_ = std::move(source);
    return Status::success();
  }
  SLIM_RETURN_IF_ERROR(device->copyToDevice(out->values_.address(), source->data(), source->bytes()));
  return device->synchronize();
}

Status DeviceStates::copy(const DeviceStates& source, const Options& options,
                          std::shared_ptr<DeviceStates>& out) {
  const std::shared_ptr<Device>& device = source.device_;
  const auto lock = device->use();
  bool onDevice = false;
  SLIM_RETURN_IF_ERROR(place(device, source.tokens_, source.width_, options, out, onDevice));
  const size_t bytes = source.tokens_ * source.rowBytes();
  if (onDevice) {
    const DeviceAddress to = out->values_.address();
    return source.host_ ? device->copyToDevice(to, source.host_->data(), bytes)
                        : device->copyOnDevice(to, source.values_.address(), bytes);
  }
  SLIM_RETURN_IF_ERROR(
      Tensor::allocate(DType::F32, {source.tokens_, source.width_}, out->host_, options.spillDirectory));
  return source.readTo(out->host_->data());
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

Status DeviceStates::readTo(void* out) const {
  const size_t bytes = tokens_ * rowBytes();
  if (!host_) return device_->copyToHost(out, values_.address(), bytes);
  std::memcpy(out, host_->data(), bytes);
  return Status::success();
}

Status DeviceStates::read(TensorPtr& out) const {
  TensorPtr copy;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {tokens_, width_}, copy));
  SLIM_RETURN_IF_ERROR(readTo(copy->data()));
  out = std::move(copy);
  return Status::success();
}

}  // namespace slim::cuda
