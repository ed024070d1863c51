// Tensor and MappedFile as JavaScript objects (NativeTensor, NativeMappedFile in lib/native/addon.ts).
#pragma once
#include <napi.h>

#include "addon/native_object.h"
#include "core/mapped_file.h"
#include "core/tensor.h"

namespace slim::addon {

class TensorObject : public NativeObject<TensorObject> {
 public:
  explicit TensorObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, TensorPtr tensor);
  /// nullptr when the value is not a tensor or is disposed.
  static TensorPtr get(const Napi::Value& value);
  static void registerAll(Napi::Env env, Napi::Object exports);

 private:
  Napi::Value getDType(const Napi::CallbackInfo& info);
  Napi::Value getShape(const Napi::CallbackInfo& info);
  Napi::Value getByteLength(const Napi::CallbackInfo& info);
  Napi::Value toFloat32Array(const Napi::CallbackInfo& info);
  Napi::Value toBytes(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  Tensor& tensor(const Napi::CallbackInfo& info) const;

  TensorPtr tensor_;
  ExternalMemory memory_;
};

/// What one environment (main thread or worker thread) keeps: constructors and type tags are per environment.
struct AddonData {
  Napi::FunctionReference tensor, packedMatrix, decoderModel, kvCache, modelClaim, cudaPackedMatrix,
      cudaHessian;
  Napi::FunctionReference makeError;     // (code, message, details) => SlimError
  std::shared_ptr<ThreadPool> lastPool;  // kept, so that a run of small jobs does not start threads for each
};

}  // namespace slim::addon
