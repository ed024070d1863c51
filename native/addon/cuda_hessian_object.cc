#include "addon/cuda_hessian_object.h"

#include "addon/arguments.h"
#include "addon/cuda_object.h"
#include "addon/hessian_object.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kCudaHessianTag = {0x3c8f51d06ab2974e, 0x95e7b20d41f8a36c};

}  // namespace

CudaHessianObject::CudaHessianObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  if (!info[0].IsExternal())
    throwInvalid(info.Env(), "hessian", "CudaDevice.hessian() to be called", info[0]);
  hessian_ = *info[0].As<Napi::External<std::shared_ptr<cuda::DeviceHessian>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kCudaHessianTag);
}

Napi::Value CudaHessianObject::wrap(Napi::Env env, std::shared_ptr<cuda::DeviceHessian> hessian) {
  using External = Napi::External<std::shared_ptr<cuda::DeviceHessian>>;
  return env.GetInstanceData<AddonData>()->cudaHessian.New({External::New(env, &hessian)});
}

std::shared_ptr<cuda::DeviceHessian> CudaHessianObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kCudaHessianTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->hessian_;
}

Napi::Function CudaHessianObject::define(Napi::Env env) {
  return DefineClass(
      env, "CudaHessian",
      {instanceGetter<&CudaHessianObject::getSize>("size"),
       instanceGetter<&CudaHessianObject::getSequences>("sequences"),
       instanceMethod<&CudaHessianObject::add>("add"), instanceMethod<&CudaHessianObject::matrix>("matrix"),
       instanceMethod<&CudaHessianObject::samples>("samples"),
       instanceMethod<&CudaHessianObject::drift>("drift"),
       instanceMethod<&CudaHessianObject::dispose>("dispose")});
}

std::shared_ptr<cuda::DeviceHessian> CudaHessianObject::hessian(const Napi::CallbackInfo& info) const {
  if (!hessian_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The Hessian is disposed"));
  return hessian_;
}

Napi::Value CudaHessianObject::getSize(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(hessian(info)->size()));
}

Napi::Value CudaHessianObject::getSequences(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(hessian(info)->sequences()));
}

Napi::Value CudaHessianObject::add(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto hessian = this->hessian(info);
  auto x = asTensor(info[0], "x");
  const size_t sequences = asSize(info[1], "sequences");
  if (x->dtype() != DType::F32 || x->cols() != hessian->size())
    throw toError(env, Status::invalidArgument(
                           "x", std::string("F32 [tokens, ") + std::to_string(hessian->size()) + "]",
                           describeShape(*x)));
  const auto original = asOriginal(info[3], *x);
  return startJob(
      env,
      [=](const CancelFlag&) {
        cuda::Device& device = *hessian->device();
        const auto lock = device.use();
        cuda::DeviceBuffer<float> inputs, others[3];
        const auto upload = [&](const TensorPtr& tensor, cuda::DeviceBuffer<float>& out) {
          return tensor ? device.upload(tensor->as<float>(), tensor->elements(), "inputs of a layer", out)
                        : Status::success();
        };
        SLIM_RETURN_IF_ERROR(upload(x, inputs));
        SLIM_RETURN_IF_ERROR(upload(original.x, others[0]));
        SLIM_RETURN_IF_ERROR(upload(original.states, others[1]));
        SLIM_RETURN_IF_ERROR(upload(original.quantizedStates, others[2]));
        SLIM_RETURN_IF_ERROR(hessian->add(inputs.address(), x->rows(), x->cols(), sequences,
                                          {others[0].address(), others[1].address(), others[2].address(),
                                           original.states ? original.states->cols() : 0}));
        return device.synchronize();
      },
      [](Napi::Env e) { return e.Undefined(); });
}

Napi::Value CudaHessianObject::matrix(const Napi::CallbackInfo& info) {
  auto hessian = this->hessian(info);
  cuda::Device& device = *hessian->device();
  const auto lock = device.use();
  TensorPtr h;
  throwIfError(info.Env(), Tensor::allocate(DType::F32, {hessian->size(), hessian->size()}, h));
  cuda::DeviceAddress sum;
  throwIfError(info.Env(), hessian->sum(sum));
  throwIfError(info.Env(), device.copyToHost(h->data(), sum, h->bytes()));
  const float factor = hessian->sequences() > 0 ? hessian->scale() : 0.0f;
  for (size_t i = 0; i < h->elements(); ++i) h->as<float>()[i] *= factor;
  return TensorObject::wrap(info.Env(), h);
}

Napi::Value CudaHessianObject::samples(const Napi::CallbackInfo& info) {
  auto hessian = this->hessian(info);
  cuda::Device& device = *hessian->device();
  const auto lock = device.use();
  TensorPtr samples;
  throwIfError(info.Env(), Tensor::allocate(DType::F32, {hessian->sampleCount(), hessian->size()}, samples));
  throwIfError(info.Env(), device.copyToHost(samples->data(), hessian->samples(), samples->bytes()));
  return TensorObject::wrap(info.Env(), samples);
}

// drift(): { inputs: NativeTensor | null, states: NativeTensor | null }
Napi::Value CudaHessianObject::drift(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto hessian = this->hessian(info);
  cuda::Device& device = *hessian->device();
  const auto lock = device.use();
  const auto download = [&](const cuda::DeviceBuffer<float>& sum) -> Napi::Value {
    if (sum.count() == 0) return env.Null();
    TensorPtr copy;
    throwIfError(env, Tensor::allocate(DType::F32, {sum.count() / hessian->size(), hessian->size()}, copy));
    throwIfError(env, device.copyToHost(copy->data(), sum.address(), copy->bytes()));
    return TensorObject::wrap(env, copy);
  };
  auto drift = Napi::Object::New(env);
  drift.Set("inputs", download(hessian->inputDrift()));
  drift.Set("states", download(hessian->stateDrift()));
  return drift;
}

Napi::Value CudaHessianObject::dispose(const Napi::CallbackInfo& info) {
  hessian_.reset();
  return info.Env().Undefined();
}

// hessian(size, keepEvery): NativeHessian
Napi::Value CudaDeviceObject::hessian(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  const size_t size = asSize(info[0], "size", 1), keepEvery = asSize(info[1], "keepEvery");
  if (size > kMostChannels)
    throwInvalid(info.Env(), "size", std::string("at most ") + std::to_string(kMostChannels) + " channels",
                 info[0]);
  return CudaHessianObject::wrap(info.Env(), std::make_shared<cuda::DeviceHessian>(device, size, keepEvery));
}

}  // namespace slim::addon
