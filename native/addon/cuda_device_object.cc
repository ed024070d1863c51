#include "addon/arguments.h"
#include "addon/cuda_hessian_object.h"
#include "addon/cuda_object.h"
#include "addon/packed_object.h"
#include "cuda/kernels_file.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kDeviceTag = {0x5a1be2c6f0d34719, 0x8c42d7e91b3f60a5};

Napi::Object describeError(Napi::Env env, const Status& status) { return toError(env, status).Value(); }

Napi::Object describe(Napi::Env env, const cuda::DeviceInfo& info) {
  auto object = Napi::Object::New(env);
  object.Set("index", info.index);
  object.Set("name", info.name);
  object.Set("computeCapability", std::to_string(info.major) + "." + std::to_string(info.minor));
  object.Set("memoryBytes", double(info.memoryBytes));
  object.Set("multiprocessors", info.multiprocessors);
  return object;
}

// cudaDriver(): CudaDriverFacts
Napi::Value cudaDriver(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto facts = Napi::Object::New(env);
  cuda::DriverInfo driver;
  const Status status = cuda::describeDriver(driver);
  auto devices = Napi::Array::New(env);
  for (const cuda::DeviceInfo& device : driver.devices)
    devices.Set(uint32_t(device.index), describe(env, device));
  facts.Set("driver", status.ok() ? Napi::String::New(env, driver.path).As<Napi::Value>() : env.Null());
  facts.Set("version", status.ok() ? Napi::String::New(env, std::to_string(driver.version / 1000) + "." +
                                                                std::to_string(driver.version % 1000 / 10))
                                         .As<Napi::Value>()
                                   : env.Null());
  facts.Set("driverError", status.ok() ? env.Null() : describeError(env, status).As<Napi::Value>());
  facts.Set("devices", devices);
  std::shared_ptr<MappedFile> kernels;
  const Status kernelsStatus = cuda::openKernelsFile(kernels);
  facts.Set("kernels", cuda::kernelsPath());
  facts.Set("kernelsError",
            kernelsStatus.ok() ? env.Null() : describeError(env, kernelsStatus).As<Napi::Value>());
  return facts;
}

}  // namespace

CudaDeviceObject::CudaDeviceObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  guarded(info.Env(), [&] {
    const size_t index = isMissing(info[0]) ? 0 : asSize(info[0], "index");
    throwIfError(info.Env(), cuda::Device::open(int(std::min<size_t>(index, 1 << 20)), device_));
  });
  info.This().As<Napi::Object>().TypeTag(&kDeviceTag);
}

std::shared_ptr<cuda::Device> CudaDeviceObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kDeviceTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->device_;
}

Napi::Function CudaDeviceObject::define(Napi::Env env) {
  return DefineClass(env, "CudaDevice",
                     {instanceGetter<&CudaDeviceObject::getName>("name"),
                      instanceGetter<&CudaDeviceObject::getImage>("image"),
                      instanceGetter<&CudaDeviceObject::getUsedBytes>("usedBytes"),
                      instanceGetter<&CudaDeviceObject::getPeakBytes>("peakBytes"),
                      instanceMethod<&CudaDeviceObject::sample>("sample"),
                      instanceMethod<&CudaDeviceObject::packedMatrix>("packedMatrix"),
                      instanceMethod<&CudaDeviceObject::hessian>("hessian"),
                      instanceMethod<&CudaDeviceObject::multiply>("multiply"),
                      instanceMethod<&CudaDeviceObject::states>("states"),
                      instanceMethod<&CudaDeviceObject::headGradient>("headGradient"),
                      instanceMethod<&CudaDeviceObject::calibrationBlock>("calibrationBlock"),
                      instanceMethod<&CudaDeviceObject::allocateBits>("allocateBits"),
                      instanceMethod<&CudaDeviceObject::quantizeLinear>("quantizeLinear"),
                      instanceMethod<&CudaDeviceObject::groupErrors>("groupErrors"),
                      instanceMethod<&CudaDeviceObject::inverseFactor>("inverseFactor"),
                      instanceMethod<&CudaDeviceObject::relativeOutputError>("relativeOutputError"),
                      instanceMethod<&CudaDeviceObject::fitGroups>("fitGroups"),
                      instanceMethod<&CudaDeviceObject::gptq>("gptq"),
                      instanceMethod<&CudaDeviceObject::dispose>("dispose")});
}

std::shared_ptr<cuda::Device> CudaDeviceObject::device(const Napi::CallbackInfo& info) const {
  if (!device_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The CUDA device is disposed"));
  return device_;
}

Napi::Value CudaDeviceObject::getName(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device(info)->info().name);
}
Napi::Value CudaDeviceObject::getImage(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), device(info)->image());
}
Napi::Value CudaDeviceObject::getUsedBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(device(info)->pool()->usedBytes()));
}
Napi::Value CudaDeviceObject::getPeakBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(device(info)->pool()->peakBytes()));
}

// packedMatrix(matrix, threads): NativeJob<NativeCudaPackedMatrix>
Napi::Value CudaDeviceObject::packedMatrix(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  auto matrix = PackedObject::get(info[0]);
  if (!matrix) throwInvalid(info.Env(), "matrix", "a packed matrix that is not disposed", info[0]);
  auto pool = asThreads(info[1]);
  auto result = std::make_shared<std::shared_ptr<cuda::PackedLinear>>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        return cuda::PackedLinear::make(device, *matrix, *pool, cancelled, *result);
      },
      [=](Napi::Env e) { return CudaPackedObject::wrap(e, *result); });
}

Napi::Value CudaDeviceObject::dispose(const Napi::CallbackInfo& info) {
  device_.reset();
  return info.Env().Undefined();
}

void registerCudaCalibration(Napi::Env env);  // cuda_calibration_object.cc

void registerCuda(Napi::Env env, Napi::Object exports) {
  exportFunction<cudaDriver>(exports, "cudaDriver");
  exports.Set("CudaDevice", CudaDeviceObject::define(env));
  exports.Set("CudaModelBuilder", CudaModelBuilderObject::define(env));
  env.GetInstanceData<AddonData>()->cudaHessian = Napi::Persistent(CudaHessianObject::define(env));
  exports.Set("CudaTimedWork", CudaTimedWorkObject::define(env));
  env.GetInstanceData<AddonData>()->cudaPackedMatrix = Napi::Persistent(CudaPackedObject::define(env));
  registerCudaCalibration(env);
}

}  // namespace slim::addon
