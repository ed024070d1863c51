// Hessian as a JavaScript object (NativeHessian in lib/native/addon.ts).
#pragma once
#include <napi.h>

#include <memory>

#include "addon/native_object.h"
#include "quant/hessian.h"

namespace slim::addon {

constexpr size_t kMostChannels = 1 << 17;  // 64 GiB of float32

class HessianObject : public NativeObject<HessianObject> {
 public:
  explicit HessianObject(const Napi::CallbackInfo& info);
  /// nullptr when the value is not a Hessian or is disposed.
  static std::shared_ptr<Hessian> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getSize(const Napi::CallbackInfo& info);
  Napi::Value getSequences(const Napi::CallbackInfo& info);
  Napi::Value add(const Napi::CallbackInfo& info);
  Napi::Value matrix(const Napi::CallbackInfo& info);
  Napi::Value samples(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<Hessian> hessian(const Napi::CallbackInfo& info) const;

  std::shared_ptr<Hessian> hessian_;
  ExternalMemory memory_;
};

/// The optional argument `original` of add(): what the original model has where the inputs are x.
struct OriginalArgument {
  TensorPtr x, states, quantizedStates;  // F32 or null; the states both or neither
};
OriginalArgument asOriginal(const Napi::Value& value, const Tensor& x);

/// The argument `name` as a Hessian, or an error that says what came.
std::shared_ptr<Hessian> asHessian(const Napi::Value& value, const std::string& name);

}  // namespace slim::addon
