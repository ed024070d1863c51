// A CUDA device and what lies on it as JavaScript objects (NativeCudaDevice in lib/native/cuda.ts).
#pragma once
#include <napi.h>

#include "addon/native_object.h"
#include "cuda/device.h"
#include "cuda/packed_linear.h"
#include "cuda/timed_work.h"

namespace slim::addon {

class CudaDeviceObject : public NativeObject<CudaDeviceObject> {
 public:
  explicit CudaDeviceObject(const Napi::CallbackInfo& info);
  /// nullptr when the value is not a device or is disposed.
  static std::shared_ptr<cuda::Device> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getName(const Napi::CallbackInfo& info);
  Napi::Value getImage(const Napi::CallbackInfo& info);
  Napi::Value getUsedBytes(const Napi::CallbackInfo& info);
  Napi::Value getPeakBytes(const Napi::CallbackInfo& info);
  Napi::Value packedMatrix(const Napi::CallbackInfo& info);
  Napi::Value multiply(const Napi::CallbackInfo& info);          // cuda_linear_algebra.cc
  Napi::Value states(const Napi::CallbackInfo& info);            // cuda_calibration_object.cc
  Napi::Value headGradient(const Napi::CallbackInfo& info);      // cuda_calibration_object.cc
  Napi::Value calibrationBlock(const Napi::CallbackInfo& info);  // cuda_calibration_object.cc
  Napi::Value hessian(const Napi::CallbackInfo& info);           // cuda_hessian_object.cc
  Napi::Value allocateBits(const Napi::CallbackInfo& info);  // cuda_layer_quantization.cc, as quantizeLinear
  Napi::Value quantizeLinear(const Napi::CallbackInfo& info);
  Napi::Value groupErrors(const Napi::CallbackInfo& info);
  Napi::Value inverseFactor(const Napi::CallbackInfo& info);
  Napi::Value relativeOutputError(const Napi::CallbackInfo& info);
  Napi::Value fitGroups(const Napi::CallbackInfo& info);  // cuda_quantization.cc, as gptq
  Napi::Value gptq(const Napi::CallbackInfo& info);
  Napi::Value sample(const Napi::CallbackInfo& info);  // cuda_sampling.cc
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<cuda::Device> device(const Napi::CallbackInfo& info) const;

  std::shared_ptr<cuda::Device> device_;
};

class CudaPackedObject : public NativeObject<CudaPackedObject> {
 public:
  /// From an External that wrap() makes.
  explicit CudaPackedObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<cuda::PackedLinear> linear);
  /// nullptr when the value is not a packed matrix on a device or is disposed.
  static std::shared_ptr<cuda::PackedLinear> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getRows(const Napi::CallbackInfo& info);
  Napi::Value getCols(const Napi::CallbackInfo& info);
  Napi::Value getByteLength(const Napi::CallbackInfo& info);
  Napi::Value matmul(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<cuda::PackedLinear> linear(const Napi::CallbackInfo& info) const;

  std::shared_ptr<cuda::PackedLinear> linear_;
};

/// Makes a model on a device (cuda_model_object.cc).
class CudaModelBuilderObject : public NativeObject<CudaModelBuilderObject> {
 public:
  explicit CudaModelBuilderObject(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);

 private:
  struct Shared;
  Napi::Value addBlock(const Napi::CallbackInfo& info);
  Napi::Value finish(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  /// Throws when it is disposed or adds a block.
  std::shared_ptr<void> holdIdle(const Napi::CallbackInfo& info) const;

  std::shared_ptr<Shared> shared_;
};

/// One piece of work that is recorded, and timed again and again (cuda_timed_work_object.cc).
class CudaTimedWorkObject : public NativeObject<CudaTimedWorkObject> {
 public:
  explicit CudaTimedWorkObject(const Napi::CallbackInfo& info);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value recordCopies(const Napi::CallbackInfo& info);
  Napi::Value recordPacked(const Napi::CallbackInfo& info);
  Napi::Value recordCublas(const Napi::CallbackInfo& info);
  Napi::Value turn(const Napi::CallbackInfo& info);
  Napi::Value output(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<cuda::TimedWork> work(const Napi::CallbackInfo& info) const;

  std::shared_ptr<cuda::TimedWork> work_;
};

}  // namespace slim::addon
