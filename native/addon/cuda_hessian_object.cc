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

namespace {

/// Tensors [tokens, …] of the host, uploaded for one add.
struct HostInputs {
  TensorPtr x, original, states, quantizedStates;  // all but x may be null

  Status addTo(cuda::DeviceHessian& hessian, size_t sequences) const {
    cuda::Device& device = *hessian.device();
    const auto lock = device.use();
    cuda::DeviceBuffer<float> buffers[4];
    const TensorPtr* tensors[] = {&x, &original, &states, &quantizedStates};
    for (int i = 0; i < 4; ++i)
      if (*tensors[i])
        SLIM_RETURN_IF_ERROR(device.upload((*tensors[i])->as<float>(), (*tensors[i])->elements(),
                                           "inputs of a layer", buffers[i]));
    SLIM_RETURN_IF_ERROR(hessian.add(
        buffers[0].address(), x->rows(), x->cols(), sequences,
        {buffers[1].address(), buffers[2].address(), buffers[3].address(), states ? states->cols() : 0}));
    return device.synchronize();
  }
};

}  // namespace

// add(x, sequences, threads, { x?, states?, quantizedStates? }?): NativeJob<void>
Napi::Value CudaHessianObject::add(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto hessian = this->hessian(info);
  HostInputs inputs{asTensor(info[0], "x"), nullptr, nullptr, nullptr};
  const size_t sequences = asSize(info[1], "sequences"), tokens = inputs.x->rows();
  const auto check = [&](const Tensor& tensor, const std::string& name, size_t cols) {
    if (tensor.dtype() != DType::F32 || tensor.rows() != tokens || tensor.cols() != cols)
      throw toError(
          env, Status::invalidArgument(
                   name, std::string("F32 [") + std::to_string(tokens) + ", " + std::to_string(cols) + "]",
                   describeShape(tensor)));
  };
  check(*inputs.x, "x", hessian->size());
  if (!isMissing(info[3])) {
    const auto original = asObject(info[3], "original");
    inputs.original = asOptionalTensor(original.Get("x"), "original.x");
    if (inputs.original) check(*inputs.original, "original.x", hessian->size());
    inputs.states = asOptionalTensor(original.Get("states"), "original.states");
    if (inputs.states) {
      check(*inputs.states, "original.states", inputs.states->cols());
      inputs.quantizedStates = asTensor(original.Get("quantizedStates"), "original.quantizedStates");
      check(*inputs.quantizedStates, "original.quantizedStates", inputs.states->cols());
    }
  }
  return startJob(
      env, [=](const CancelFlag&) { return inputs.addTo(*hessian, sequences); },
      [](Napi::Env e) { return e.Undefined(); });
}

// drift(): { inputs: NativeTensor | null, states: NativeTensor | null }
Napi::Value CudaHessianObject::drift(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto hessian = this->hessian(info);
  const auto lock = hessian->device()->use();
  const auto download = [&](const cuda::DeviceBuffer<float>& sum) -> Napi::Value {
    if (sum.count() == 0) return env.Null();
    TensorPtr tensor;
    throwIfError(env, Tensor::allocate(DType::F32, {sum.count() / hessian->size(), hessian->size()}, tensor));
    throwIfError(env, hessian->device()->copyToHost(tensor->data(), sum.address(), sum.bytes()));
    return TensorObject::wrap(env, tensor);
  };
  auto drift = Napi::Object::New(env);
  drift.Set("inputs", download(hessian->inputDrift()));
  drift.Set("states", download(hessian->stateDrift()));
  return drift;
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

Napi::Value CudaHessianObject::dispose(const Napi::CallbackInfo& info) {
  hessian_.reset();
  return info.Env().Undefined();
}

// hessian(size, keepEvery): NativeCudaHessian
Napi::Value CudaDeviceObject::hessian(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  const size_t size = asSize(info[0], "size", 1), keepEvery = asSize(info[1], "keepEvery");
  if (size > kMostChannels)
    throwInvalid(info.Env(), "size", std::string("at most ") + std::to_string(kMostChannels) + " channels",
                 info[0]);
  return CudaHessianObject::wrap(info.Env(), std::make_shared<cuda::DeviceHessian>(device, size, keepEvery));
}

}  // namespace slim::addon
