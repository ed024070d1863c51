// The quantization of whole layers on a device, as methods of CudaDevice.
#include "addon/arguments.h"
#include "addon/cuda_hessian_object.h"
#include "addon/cuda_object.h"
#include "addon/quant_arguments.h"
#include "cuda/bit_allocation.h"
#include "cuda/group_errors.h"
#include "cuda/group_quantization.h"
#include "cuda/quantize_linear.h"

namespace slim::addon {
namespace {

std::shared_ptr<cuda::DeviceHessian> asHessianOf(const std::shared_ptr<cuda::Device>& device,
                                                 const Napi::Value& value) {
  auto hessian = CudaHessianObject::get(value);
  if (!hessian || hessian->device() != device)
    throwInvalid(value.Env(), "hessian", "a Hessian of this device that is not disposed", value);
  return hessian;
}

}  // namespace

// allocateBits(weight, samples, salience, { bits, groupSize, sequences }, threads)
Napi::Value CudaDeviceObject::allocateBits(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  const auto step = asAllocationStep(info[0], info[1], info[2], info[3]);
  auto pool = asThreads(info[4]);
  auto allocation = std::make_shared<BitAllocation>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        std::vector<float> w;
        SLIM_RETURN_IF_ERROR(loadWeight(*step.weight.tensor, *pool, cancelled, w));
        const auto lock = device->use();
        cuda::DeviceBuffer<float> weight, samples;
        SLIM_RETURN_IF_ERROR(device->upload(w.data(), w.size(), "weight", weight));
        SLIM_RETURN_IF_ERROR(
            device->upload(step.samples->as<float>(), step.samples->elements(), "samples", samples));
        return cuda::allocateBits(*device, weight.address(), w.size() / step.weight.groups.cols,
                                  step.weight.groups,
                                  {samples.address(), step.samples->rows(), step.sequences}, step.salience,
                                  step.bits, cancelled, *allocation);
      },
      [=](Napi::Env e) { return toObject(e, *allocation); });
}

// quantizeLinear(weight, hessian, options, threads): NativeJob<QuantizedLinear>
Napi::Value CudaDeviceObject::quantizeLinear(const Napi::CallbackInfo& info) {
  auto weight = asTensor(info[0], "weight");
  auto hessian = asHessianOf(device(info), info[1]);
  const QuantizeLinearOptions options = asQuantizeLinearOptions(info[2]);
  auto pool = asThreads(info[3]);
  auto result = std::make_shared<QuantizedLinear>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        return cuda::quantizeLinear(*weight, *hessian, options, *pool, cancelled, *result);
      },
      [=](Napi::Env e) { return toObject(e, *result); });
}

// groupErrors(weight, hessian, rows, { groupSize, quantizer, mostBits }, threads): NativeJob<Float64Array>
Napi::Value CudaDeviceObject::groupErrors(const Napi::CallbackInfo& info) {
  auto hessian = asHessianOf(device(info), info[1]);
  const auto step = asGroupErrorsStep(info[0], info[2], info[3]);
  throwIfError(info.Env(), cuda::checkDeviceGroupSize(step.weight.groups));
  auto pool = asThreads(info[4]);
  auto errors = std::make_shared<std::vector<double>>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        return cuda::groupErrors(*step.weight.tensor, *hessian, step.rows,
                                 {step.weight.groups.groupSize, step.quantizer, step.mostBits}, *pool,
                                 cancelled, *errors);
      },
      [=](Napi::Env e) { return toFloat64Array(e, *errors); });
}

}  // namespace slim::addon
