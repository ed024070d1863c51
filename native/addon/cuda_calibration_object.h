// Calibration on a device as JavaScript objects (NativeCudaStates, NativeCudaCalibrationBlock in
// lib/native/addon.ts).
#pragma once
#include <napi.h>

#include "addon/native_object.h"
#include "cuda/calibration_block.h"

namespace slim::addon {

class CudaStatesObject : public NativeObject<CudaStatesObject> {
 public:
  /// From an External that wrap() makes.
  explicit CudaStatesObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<cuda::DeviceStates> states);
  /// nullptr when the value is no such object or is disposed.
  static std::shared_ptr<cuda::DeviceStates> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getOnDevice(const Napi::CallbackInfo& info);
  Napi::Value getTokens(const Napi::CallbackInfo& info);
  Napi::Value getWidth(const Napi::CallbackInfo& info);
  Napi::Value read(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<cuda::DeviceStates> states(const Napi::CallbackInfo& info) const;

  std::shared_ptr<cuda::DeviceStates> states_;
};

class CudaCalibrationBlockObject : public NativeObject<CudaCalibrationBlockObject> {
 public:
  /// From an External that wrap() makes.
  explicit CudaCalibrationBlockObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<cuda::CalibrationBlock> block);
  /// nullptr when the value is no such object or is disposed.
  static std::shared_ptr<cuda::CalibrationBlock> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value stage(const Napi::CallbackInfo& info);
  Napi::Value backward(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<cuda::CalibrationBlock> block(const Napi::CallbackInfo& info) const;

  std::shared_ptr<cuda::CalibrationBlock> block_;
};

}  // namespace slim::addon
