// The quantization steps on a device, as methods of CudaDevice.
#include "addon/arguments.h"
#include "addon/cuda_object.h"
#include "addon/packed_object.h"
#include "addon/quant_arguments.h"
#include "cuda/group_quantization.h"
#include "cuda/inverse_factor.h"

namespace slim::addon {
namespace {

struct GroupStep {
  TensorPtr weight, upper, costs;  // costs, and for no compensation upper, may be null
  Groups groups;
  std::vector<uint8_t> groupBits;
  Quantizer quantizer;
};

Status quantize(cuda::Device& device, const GroupStep& step, ThreadPool& pool, const CancelFlag& cancelled,
                std::shared_ptr<PackedMatrix>& out) {
  std::vector<float> w;
  SLIM_RETURN_IF_ERROR(loadWeight(*step.weight, pool, cancelled, w));
  const auto lock = device.use();
  cuda::DeviceBuffer<float> weights, costs;
  cuda::DeviceInverseFactor factor;
  SLIM_RETURN_IF_ERROR(device.upload(w.data(), w.size(), "weight", weights));
  if (step.costs)
    SLIM_RETURN_IF_ERROR(device.upload(step.costs->as<float>(), step.costs->elements(), "costs", costs));
  if (step.upper)
    SLIM_RETURN_IF_ERROR(
        device.upload(step.upper->as<float>(), step.upper->elements(), "upper", factor.upper));
  cuda::DeviceGroupCodes codes;
  SLIM_RETURN_IF_ERROR(cuda::quantizeGroups(
      device, weights.address(), w.size() / step.groups.cols, step.groups, step.groupBits,
      {.quantizer = step.quantizer, .h = costs.address(), .factor = step.upper ? &factor : nullptr},
      cancelled, codes));
  return cuda::pack(device, codes, out);
}

GroupStep asGroupStep(const Napi::Value& weight, const Napi::Value& groupBits, const Napi::Object& options) {
  const auto env = weight.Env();
  const WeightArgument grouped = asGroupedWeight(weight, options.Get("groupSize"), "options.groupSize");
  GroupStep step{grouped.tensor,
                 nullptr,
                 nullptr,
                 grouped.groups,
                 asGroupBits(groupBits, "groupBits"),
                 asQuantizer(options.Get("quantizer"), "options.quantizer")};
  throwIfError(env, checkGroupBits(step.groupBits, step.groups));
  throwIfError(env, cuda::checkDeviceGroupSize(step.groups));
  return step;
}

Napi::Value start(Napi::Env env, std::shared_ptr<cuda::Device> device, const GroupStep& step,
                  std::shared_ptr<ThreadPool> pool) {
  auto packed = std::make_shared<std::shared_ptr<PackedMatrix>>();
  return startJob(
      env, [=](const CancelFlag& cancelled) { return quantize(*device, step, *pool, cancelled, *packed); },
      [=](Napi::Env e) { return PackedObject::wrap(e, *packed); });
}

}  // namespace

// fitGroups(weight, groupBits, { groupSize, quantizer }, threads): NativeJob<NativePackedMatrix>
Napi::Value CudaDeviceObject::fitGroups(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  const GroupStep step = asGroupStep(info[0], info[1], asObject(info[2], "options"));
  return start(info.Env(), device, step, asThreads(info[3]));
}

// gptq(weight, upper, groupBits, { groupSize, quantizer, costs? }, threads): NativeJob<NativePackedMatrix>
Napi::Value CudaDeviceObject::gptq(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  const auto options = asObject(info[3], "options");
  GroupStep step = asGroupStep(info[0], info[2], options);
  const size_t cols = step.groups.cols;
  step.upper = asFloatMatrix(info[1], "upper", cols, cols);
  if (!isMissing(options.Get("costs")))
    step.costs = asFloatMatrix(options.Get("costs"), "options.costs", 1, cols);
  return start(info.Env(), device, step, asThreads(info[4]));
}

}  // namespace slim::addon
