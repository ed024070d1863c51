#include "addon/hessian_object.h"

#include <cstring>

#include "addon/arguments.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kHessianTag = {0x9a4be07d21c64f53, 0xb1d2a83e5f60c974};

}  // namespace

HessianObject::HessianObject(const Napi::CallbackInfo& info) : NativeObject(info), memory_(info.Env()) {
  const size_t size = asSize(info[0], "size", 1), keepEvery = asSize(info[1], "keepEvery");
  if (size > kMostChannels)
    throwInvalid(info.Env(), "size", "at most " + std::to_string(kMostChannels) + " channels", info[0]);
  guarded(info.Env(), [&] { hessian_ = std::make_shared<Hessian>(size, keepEvery); });
  memory_.set(size * size * sizeof(float));
  info.This().As<Napi::Object>().TypeTag(&kHessianTag);
}

std::shared_ptr<Hessian> HessianObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kHessianTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->hessian_;
}

std::shared_ptr<Hessian> asHessian(const Napi::Value& value, const std::string& name) {
  auto hessian = HessianObject::get(value);
  if (!hessian) throwInvalid(value.Env(), name, "a native Hessian that is not disposed", value);
  return hessian;
}

Napi::Function HessianObject::define(Napi::Env env) {
  return DefineClass(
      env, "Hessian",
      {instanceGetter<&HessianObject::getSize>("size"),
       instanceGetter<&HessianObject::getSequences>("sequences"), instanceMethod<&HessianObject::add>("add"),
       instanceMethod<&HessianObject::matrix>("matrix"), instanceMethod<&HessianObject::samples>("samples"),
       instanceMethod<&HessianObject::dispose>("dispose")});
}

std::shared_ptr<Hessian> HessianObject::hessian(const Napi::CallbackInfo& info) const {
  if (!hessian_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The Hessian is disposed"));
  return hessian_;
}

Napi::Value HessianObject::getSize(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(hessian(info)->size()));
}

Napi::Value HessianObject::getSequences(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(hessian(info)->sequences()));
}

OriginalArgument asOriginal(const Napi::Value& value, const Tensor& x) {
  if (isMissing(value)) return {};
  const auto object = asObject(value, "original");
  const auto matrix = [&](const char* key, size_t cols) {
    const std::string name = std::string("original.") + key;
    auto tensor = asOptionalTensor(object.Get(key), name);
    if (tensor &&
        (tensor->dtype() != DType::F32 || tensor->rows() != x.rows() || (cols > 0 && tensor->cols() != cols)))
      throw toError(value.Env(),
                    Status::invalidArgument(name,
                                            std::string("F32 [") + std::to_string(x.rows()) + ", " +
                                                (cols > 0 ? std::to_string(cols) : "channels") + "]",
                                            describeShape(*tensor)));
    return tensor;
  };
  OriginalArgument original{matrix("x", x.cols()), matrix("states", 0), nullptr};
  if (!original.states) return original;
  original.quantizedStates = matrix("quantizedStates", original.states->cols());
  if (!original.quantizedStates)
    throwInvalid(value.Env(), "original.quantizedStates", "the states of both models",
                 object.Get("quantizedStates"));
  return original;
}

// add(x, sequences, threads, original?): NativeJob<void>
Napi::Value HessianObject::add(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto hessian = this->hessian(info);
  auto x = asTensor(info[0], "x");
  const size_t sequences = asSize(info[1], "sequences");
  auto pool = asThreads(info[2]);
  if (x->dtype() != DType::F32 || x->cols() != hessian->size())
    throw toError(env, Status::invalidArgument("x", "F32 [tokens, " + std::to_string(hessian->size()) + "]",
                                               describeShape(*x)));
  const auto original = asOriginal(info[3], *x);
  return startJob(
      env,
      [=](const CancelFlag&) {
        OriginalInputs inputs;
        if (original.x) inputs.x = original.x->as<float>();
        if (original.states) {
          inputs.states = original.states->as<float>();
          inputs.quantizedStates = original.quantizedStates->as<float>();
          inputs.stateSize = original.states->cols();
        }
        hessian->add(x->as<float>(), x->rows(), x->cols(), sequences, *pool, inputs);
        return Status::success();
      },
      [](Napi::Env e) { return e.Undefined(); });
}

Napi::Value HessianObject::matrix(const Napi::CallbackInfo& info) {
  auto hessian = this->hessian(info);
  const auto reading = hessian->reading();
  TensorPtr h;
  throwIfError(info.Env(), hessian->matrix(h));
  return TensorObject::wrap(info.Env(), h);
}

Napi::Value HessianObject::samples(const Napi::CallbackInfo& info) {
  auto hessian = this->hessian(info);
  const auto reading = hessian->reading();
  TensorPtr samples;
  throwIfError(info.Env(), Tensor::allocate(DType::F32, {hessian->sampleCount(), hessian->size()}, samples));
  std::memcpy(samples->data(), hessian->samples().data(), hessian->samples().size() * sizeof(float));
  return TensorObject::wrap(info.Env(), samples);
}

Napi::Value HessianObject::dispose(const Napi::CallbackInfo& info) {
  hessian_.reset();
  memory_.set(0);
  return info.Env().Undefined();
}

void registerHessian(Napi::Env env, Napi::Object exports) {
  exports.Set("Hessian", HessianObject::define(env));
}

}  // namespace slim::addon
