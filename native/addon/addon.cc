// The addon's exports, one register function a file; lib/native/addon.ts states their types.
#include <napi.h>

#include "addon/arguments.h"
#include "addon/native_object.h"
#include "addon/tensor_object.h"

namespace slim::addon {

void registerGemm(Napi::Object exports);                         // gemm_functions.cc
void registerHessian(Napi::Env env, Napi::Object exports);       // hessian_object.cc
void registerPacked(Napi::Env env, Napi::Object exports);        // packed_object.cc
void registerPackedCase(Napi::Object exports);                   // packed_case.cc
void registerQuant(Napi::Object exports);                        // quant_functions.cc
void registerDecoder(Napi::Env env, Napi::Object exports);       // decoder_object.cc
void registerSharedModels(Napi::Env env, Napi::Object exports);  // shared_models.cc
void registerCuda(Napi::Env env, Napi::Object exports);          // cuda_device_object.cc

// setErrorFactory((code, message, details) => Error)
static Napi::Value setErrorFactory(const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) throwInvalid(info.Env(), "make", "a function", info[0]);
  info.Env().GetInstanceData<AddonData>()->makeError = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

static Napi::Object init(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new AddonData());
  exportFunction<setErrorFactory>(exports, "setErrorFactory");
  TensorObject::registerAll(env, exports);
  registerGemm(exports);
  registerHessian(env, exports);
  registerPacked(env, exports);
  registerPackedCase(exports);
  registerQuant(exports);
  registerDecoder(env, exports);
  registerSharedModels(env, exports);
  registerCuda(env, exports);
  return exports;
}

}  // namespace slim::addon

static Napi::Object initSlim(Napi::Env env, Napi::Object exports) { return slim::addon::init(env, exports); }
NODE_API_MODULE(slim, initSlim)
