// DeviceHessian as a JavaScript object (NativeCudaHessian in lib/native/addon.ts).
#pragma once
#include <napi.h>

#include "addon/native_object.h"
#include "cuda/device_hessian.h"

namespace slim::addon {

class CudaHessianObject : public NativeObject<CudaHessianObject> {
 public:
  /// From an External that wrap() makes.
  explicit CudaHessianObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<cuda::DeviceHessian> hessian);
  /// nullptr when the value is not a device's Hessian or is disposed.
  static std::shared_ptr<cuda::DeviceHessian> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getSize(const Napi::CallbackInfo& info);
  Napi::Value getSequences(const Napi::CallbackInfo& info);
  Napi::Value add(const Napi::CallbackInfo& info);
  Napi::Value matrix(const Napi::CallbackInfo& info);
  Napi::Value samples(const Napi::CallbackInfo& info);
  Napi::Value drift(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<cuda::DeviceHessian> hessian(const Napi::CallbackInfo& info) const;

  std::shared_ptr<cuda::DeviceHessian> hessian_;
};

}  // namespace slim::addon
