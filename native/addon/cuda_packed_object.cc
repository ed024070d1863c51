#include "addon/arguments.h"
#include "addon/cuda_object.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kPackedTag = {0x61f0d3b8a97c4e25, 0xe2947b0c5d8136fa};

cuda::ActivationType activationType(DType dtype) {
  return dtype == DType::F32   ? cuda::ActivationType::F32
         : dtype == DType::F16 ? cuda::ActivationType::F16
                               : cuda::ActivationType::BF16;
}

Status multiply(const cuda::PackedLinear& linear, const Tensor& x, const Tensor* bias, bool accumulate,
                uint32_t splits, Tensor& y) {
  cuda::Device& device = *linear.device();
  const auto lock = device.use();
  cuda::DeviceBuffer<uint8_t> input;
  cuda::DeviceBuffer<float> output, biases;
  SLIM_RETURN_IF_ERROR(device.upload(x.data(), x.bytes(), "x", input));
  SLIM_RETURN_IF_ERROR(device.allocate(y.elements(), "y", output));
  if (accumulate) SLIM_RETURN_IF_ERROR(device.copyToDevice(output.address(), y.data(), y.bytes()));
  if (bias) SLIM_RETURN_IF_ERROR(device.upload(bias->as<float>(), bias->elements(), "bias", biases));
  const cuda::DeviceActivations activations{input.address(), activationType(x.dtype()), x.rows(), x.cols()};
  cuda::ProductScratch scratch;
  SLIM_RETURN_IF_ERROR(cuda::PackedLinear::scaleTokens(device, activations, x.cols(), scratch));
  SLIM_RETURN_IF_ERROR(linear.multiply(
      activations, {output.address(), linear.rows(), biases.address(), accumulate}, scratch, splits));
  return device.copyToHost(y.data(), output.address(), y.bytes());
}

}  // namespace

CudaPackedObject::CudaPackedObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  if (!info[0].IsExternal())
    throwInvalid(info.Env(), "matrix", "CudaDevice.packedMatrix() to be called", info[0]);
  linear_ = *info[0].As<Napi::External<std::shared_ptr<cuda::PackedLinear>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kPackedTag);
}

std::shared_ptr<cuda::PackedLinear> CudaPackedObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kPackedTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->linear_;
}

Napi::Value CudaPackedObject::wrap(Napi::Env env, std::shared_ptr<cuda::PackedLinear> linear) {
  using External = Napi::External<std::shared_ptr<cuda::PackedLinear>>;
  return env.GetInstanceData<AddonData>()->cudaPackedMatrix.New({External::New(env, &linear)});
}

Napi::Function CudaPackedObject::define(Napi::Env env) {
  return DefineClass(
      env, "CudaPackedMatrix",
      {instanceGetter<&CudaPackedObject::getRows>("rows"), instanceGetter<&CudaPackedObject::getCols>("cols"),
       instanceGetter<&CudaPackedObject::getByteLength>("byteLength"),
       instanceMethod<&CudaPackedObject::matmul>("matmul"),
       instanceMethod<&CudaPackedObject::dispose>("dispose")});
}

std::shared_ptr<cuda::PackedLinear> CudaPackedObject::linear(const Napi::CallbackInfo& info) const {
  if (!linear_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The CUDA matrix is disposed"));
  return linear_;
}

Napi::Value CudaPackedObject::getRows(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(linear(info)->rows()));
}
Napi::Value CudaPackedObject::getCols(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(linear(info)->cols()));
}
Napi::Value CudaPackedObject::getByteLength(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(linear(info)->deviceBytes()));
}

// matmul(x, { bias?, addTo?, splits? }): NativeJob<NativeTensor>
Napi::Value CudaPackedObject::matmul(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto linear = this->linear(info);
  auto x = asTensor(info[0], "x");
  const std::string cols = std::to_string(linear->cols()), rows = std::to_string(linear->rows());
  if (!isFloat(x->dtype()) || x->cols() != linear->cols())
    throw toError(env,
                  Status::invalidArgument("x", "F32, F16 or BF16 [tokens, " + cols + "]", describeShape(*x)));
  TensorPtr bias, addTo;
  uint32_t splits = 0;
  if (!isMissing(info[1])) {
    const auto options = asObject(info[1], "options");
    bias = asOptionalTensor(options.Get("bias"), "options.bias");
    addTo = asOptionalTensor(options.Get("addTo"), "options.addTo");
    if (!isMissing(options.Get("splits")))
      splits = uint32_t(std::min<size_t>(asSize(options.Get("splits"), "options.splits", 1), 1 << 20));
  }
  if (bias && (bias->dtype() != DType::F32 || bias->elements() != linear->rows()))
    throw toError(env, Status::invalidArgument("options.bias", "F32 [" + rows + "]", describeShape(*bias)));
  if (addTo &&
      (addTo->dtype() != DType::F32 || addTo->rows() != x->rows() || addTo->cols() != linear->rows()))
    throw toError(
        env, Status::invalidArgument("options.addTo", "F32 [" + std::to_string(x->rows()) + ", " + rows + "]",
                                     describeShape(*addTo)));
  auto result = std::make_shared<TensorPtr>();
  return startJob(
      env,
      [=](const CancelFlag&) {
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {x->rows(), linear->rows()}, *result));
        if (x->rows() == 0) return Status::success();
        if (addTo) std::copy_n(addTo->data(), addTo->bytes(), (*result)->data());
        return multiply(*linear, *x, bias.get(), addTo != nullptr, splits, **result);
      },
      [=](Napi::Env e) { return TensorObject::wrap(e, *result); });
}

Napi::Value CudaPackedObject::dispose(const Napi::CallbackInfo& info) {
  linear_.reset();
  return info.Env().Undefined();
}

}  // namespace slim::addon
