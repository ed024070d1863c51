// A model is made on a device block by block; what comes out is a DecoderModel object like the CPU's.
#include "addon/arguments.h"
#include "addon/cuda_object.h"
#include "addon/decoder_object.h"
#include "cuda/device_model.h"

namespace slim::addon {

struct CudaModelBuilderObject::Shared : Busy {
  explicit Shared(std::shared_ptr<cuda::Device> device) : builder(std::move(device)) {}
  cuda::DeviceModelBuilder builder;
};

CudaModelBuilderObject::CudaModelBuilderObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  auto device = CudaDeviceObject::get(info[0]);
  if (!device) throwInvalid(info.Env(), "device", "a CUDA device that is not disposed", info[0]);
  shared_ = std::make_shared<Shared>(std::move(device));
}

Napi::Function CudaModelBuilderObject::define(Napi::Env env) {
  return DefineClass(env, "CudaModelBuilder",
                     {instanceMethod<&CudaModelBuilderObject::addBlock>("addBlock"),
                      instanceMethod<&CudaModelBuilderObject::finish>("finish"),
                      instanceMethod<&CudaModelBuilderObject::dispose>("dispose")});
}

std::shared_ptr<void> CudaModelBuilderObject::holdIdle(const Napi::CallbackInfo& info) const {
  if (!shared_)
    throw toError(info.Env(),
                  Status::error("SLIM_DISPOSED", "The model builder is disposed or has finished"));
  return hold(info.Env(), shared_, "builder", "a model builder that adds no block", "Await addBlock first");
}

// addBlock(block, threads): NativeJob<void>
Napi::Value CudaModelBuilderObject::addBlock(const Napi::CallbackInfo& info) {
  const auto held = holdIdle(info);
  auto block = DecoderBlockObject::get(info[0]);
  if (!block) throwInvalid(info.Env(), "block", "a decoder block that is not disposed", info[0]);
  auto pool = asThreads(info[1]);
  return startJob(
      info.Env(),
      [=, shared = shared_](const CancelFlag& cancelled) {
        return shared->builder.addBlock(*block, *pool, cancelled);
      },
      [held](Napi::Env e) { return e.Undefined(); });
}

// finish(parts, threads): NativeJob<NativeDecoderModel>
Napi::Value CudaModelBuilderObject::finish(const Napi::CallbackInfo& info) {
  const auto held = holdIdle(info);
  auto parts = std::make_shared<ModelParts>(asOuterParts(asObject(info[0], "parts")));
  auto pool = asThreads(info[1]);
  auto model = std::make_shared<std::shared_ptr<LanguageModel>>();
  return startJob(
      info.Env(),
      [=, shared = std::move(shared_)](const CancelFlag& cancelled) {
        return shared->builder.finish(*parts, *pool, cancelled, *model);
      },
      [held, model](Napi::Env e) { return DecoderModelObject::wrap(e, *model); });
}

Napi::Value CudaModelBuilderObject::dispose(const Napi::CallbackInfo& info) {
  shared_.reset();
  return info.Env().Undefined();
}

}  // namespace slim::addon
