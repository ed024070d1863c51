#include "addon/cuda_calibration_object.h"

#include "addon/arguments.h"
#include "addon/cuda_hessian_object.h"
#include "addon/cuda_object.h"
#include "addon/decoder_object.h"
#include "cuda/head_gradient.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kStatesTag = {0x3f7a91d04c8e4b25, 0xa60d52f7b9138ce4};
constexpr napi_type_tag kCalibrationBlockTag = {0xd15c08e7724b4f9e, 0x8e3b6a90f1c7425d};

/// The argument `name`: states [tokens, width] on `device`; `tokens` 0: any number.
std::shared_ptr<cuda::DeviceStates> asStates(const Napi::Value& value, const std::string& name,
                                             const std::shared_ptr<cuda::Device>& device, size_t tokens,
                                             size_t width) {
  auto states = CudaStatesObject::get(value);
  if (!states) throwInvalid(value.Env(), name, "states on the device that are not disposed", value);
  if (states->device() != device)
    throw toError(value.Env(), Status::invalidArgument(name, "states of the block's device", "another's",
                                                       "Make them by states() of that device"));
  if (states->width() != width || (tokens > 0 && states->tokens() != tokens)) {
    const auto shape = [](const std::string& t, size_t w) {
      return std::string("[") + t + ", " + std::to_string(w) + "]";
    };
    throw toError(value.Env(),
                  Status::invalidArgument(name, shape(tokens > 0 ? std::to_string(tokens) : "tokens", width),
                                          shape(std::to_string(states->tokens()), states->width())));
  }
  return states;
}

/// The argument `name`: a Hessian of `size` channels on `device`.
std::shared_ptr<cuda::DeviceHessian> asDeviceHessian(const Napi::Value& value, const std::string& name,
                                                     const std::shared_ptr<cuda::Device>& device,
                                                     size_t size) {
  auto hessian = CudaHessianObject::get(value);
  if (!hessian) throwInvalid(value.Env(), name, "a Hessian of the device that is not disposed", value);
  if (hessian->device() != device)
    throw toError(value.Env(), Status::invalidArgument(name, "a Hessian of the block's device", "another's",
                                                       "Make it by hessian() of that device"));
  if (hessian->size() != size)
    throw toError(value.Env(), Status::invalidArgument(name, "a Hessian of size " + std::to_string(size),
                                                       std::to_string(hessian->size())));
  return hessian;
}

/// Channels of the inputs of a block's parts.
size_t inputSize(const cuda::CalibrationBlock& block, cuda::BlockPart part) {
  switch (part) {
    case cuda::BlockPart::O:
      return block.spec().queryWidth();
    case cuda::BlockPart::Down:
      return block.intermediateSize();
    default:
      return block.spec().hiddenSize;
  }
}

/// undefined and null give nullptr.
std::shared_ptr<cuda::DeviceTaps> asDeviceTaps(const Napi::Value& value,
                                               const cuda::CalibrationBlock& block) {
  if (isMissing(value)) return nullptr;
  const auto object = asObject(value, "taps");
  constexpr const char* kNames[] = {"qkv", "o", "gateUp", "down"};
  auto taps = std::make_shared<cuda::DeviceTaps>();
  for (const cuda::BlockPart part : cuda::kBlockParts) {
    const char* name = kNames[size_t(part)];
    if (const Napi::Value given = object.Get(name); !isMissing(given))
      taps->hessians[size_t(part)] =
          asDeviceHessian(given, std::string("taps.") + name, block.device(), inputSize(block, part));
  }
  return taps;
}

cuda::DeviceStagedPass asDevicePass(const Napi::Value& value, const std::string& name,
                                    const cuda::CalibrationBlock& block) {
  const auto object = asObject(value, name);
  const auto part = [&](const char* of, size_t tokens, size_t width) {
    return asStates(object.Get(of), name + "." + of, block.device(), tokens, width);
  };
  cuda::DeviceStagedPass pass;
  pass.states = part("states", 0, block.spec().hiddenSize);
  pass.attended = part("attended", pass.states->tokens(), block.spec().queryWidth());
  pass.inner = part("inner", pass.states->tokens(), block.intermediateSize());
  return pass;
}

cuda::CalibrationWindows asWindows(const Napi::Object& options) {
  cuda::CalibrationWindows windows;
  windows.length = asSize(options.Get("sequenceLength"), "sequenceLength", 1);
  if (const Napi::Value given = options.Get("tileTokens"); !isMissing(given))
    windows.tileTokens = asSize(given, "tileTokens", 1);
  return windows;
}

}  // namespace

CudaStatesObject::CudaStatesObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  if (!info[0].IsExternal()) throwInvalid(info.Env(), "states", "CudaDevice.states() to be called", info[0]);
  states_ = *info[0].As<Napi::External<std::shared_ptr<cuda::DeviceStates>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kStatesTag);
}

Napi::Value CudaStatesObject::wrap(Napi::Env env, std::shared_ptr<cuda::DeviceStates> states) {
  using External = Napi::External<std::shared_ptr<cuda::DeviceStates>>;
  return env.GetInstanceData<AddonData>()->cudaStates.New({External::New(env, &states)});
}

std::shared_ptr<cuda::DeviceStates> CudaStatesObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kStatesTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->states_;
}

Napi::Function CudaStatesObject::define(Napi::Env env) {
  return DefineClass(
      env, "CudaStates",
      {instanceGetter<&CudaStatesObject::getOnDevice>("onDevice"),
       instanceGetter<&CudaStatesObject::getTokens>("tokens"),
       instanceGetter<&CudaStatesObject::getWidth>("width"), instanceMethod<&CudaStatesObject::read>("read"),
       instanceMethod<&CudaStatesObject::dispose>("dispose")});
}

std::shared_ptr<cuda::DeviceStates> CudaStatesObject::states(const Napi::CallbackInfo& info) const {
  if (!states_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The CUDA states are disposed"));
  return states_;
}

Napi::Value CudaStatesObject::getOnDevice(const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), states(info)->onDevice());
}
Napi::Value CudaStatesObject::getTokens(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(states(info)->tokens()));
}
Napi::Value CudaStatesObject::getWidth(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(states(info)->width()));
}

Napi::Value CudaStatesObject::read(const Napi::CallbackInfo& info) {
  auto states = this->states(info);
  const auto lock = states->device()->use();
  TensorPtr copy;
  throwIfError(info.Env(), states->read(copy));
  return TensorObject::wrap(info.Env(), std::move(copy));
}

Napi::Value CudaStatesObject::dispose(const Napi::CallbackInfo& info) {
  states_.reset();
  return info.Env().Undefined();
}

CudaCalibrationBlockObject::CudaCalibrationBlockObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  if (!info[0].IsExternal())
    throwInvalid(info.Env(), "block", "CudaDevice.calibrationBlock() to be called", info[0]);
  block_ = *info[0].As<Napi::External<std::shared_ptr<cuda::CalibrationBlock>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kCalibrationBlockTag);
}

Napi::Value CudaCalibrationBlockObject::wrap(Napi::Env env, std::shared_ptr<cuda::CalibrationBlock> block) {
  using External = Napi::External<std::shared_ptr<cuda::CalibrationBlock>>;
  return env.GetInstanceData<AddonData>()->cudaCalibrationBlock.New({External::New(env, &block)});
}

std::shared_ptr<cuda::CalibrationBlock> CudaCalibrationBlockObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kCalibrationBlockTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->block_;
}

Napi::Function CudaCalibrationBlockObject::define(Napi::Env env) {
  return DefineClass(env, "CudaCalibrationBlock",
                     {instanceMethod<&CudaCalibrationBlockObject::forward>("forward"),
                      instanceMethod<&CudaCalibrationBlockObject::stage>("stage"),
                      instanceMethod<&CudaCalibrationBlockObject::backward>("backward"),
                      instanceMethod<&CudaCalibrationBlockObject::dispose>("dispose")});
}

std::shared_ptr<cuda::CalibrationBlock> CudaCalibrationBlockObject::block(
    const Napi::CallbackInfo& info) const {
  if (!block_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The CUDA block is disposed"));
  return block_;
}

// forward(states, { sequenceLength, taps?, tileTokens? }, threads): NativeJob<void>
Napi::Value CudaCalibrationBlockObject::forward(const Napi::CallbackInfo& info) {
  auto block = this->block(info);
  auto states = asStates(info[0], "states", block->device(), 0, block->spec().hiddenSize);
  const auto options = asObject(info[1], "options");
  const cuda::CalibrationWindows windows = asWindows(options);
  auto taps = asDeviceTaps(options.Get("taps"), *block);
  auto pool = asThreads(info[2]);
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        return block->forward(*states, windows, taps.get(), *pool, cancelled);
      },
      [](Napi::Env e) { return e.Undefined(); });
}

// stage(name, { sequenceLength, pass, hessian?, original?: { block, pass }, tileTokens? }, threads):
// NativeJob<void>
Napi::Value CudaCalibrationBlockObject::stage(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto block = this->block(info);
  const Stage stage = asStage(info[0]);
  const auto options = asObject(info[1], "options");
  const cuda::CalibrationWindows windows = asWindows(options);
  const cuda::DeviceStagedPass pass = asDevicePass(options.Get("pass"), "pass", *block);
  cuda::DeviceStageTap tap;
  if (const Napi::Value given = options.Get("hessian"); !isMissing(given)) {
    if (stage == Stage::End) throwInvalid(env, "hessian", "none: stage 'end' has no inputs of layers", given);
    tap.hessian = asDeviceHessian(given, "hessian", block->device(),
                                  inputSize(*block, cuda::kBlockParts[size_t(stage)]));
  }
  if (const Napi::Value given = options.Get("original"); !isMissing(given)) {
    const auto object = asObject(given, "original");
    tap.original = get(object.Get("block"));
    if (!tap.original || tap.original->device() != block->device() ||
        tap.original->spec().hiddenSize != block->spec().hiddenSize ||
        tap.original->spec().queryWidth() != block->spec().queryWidth() ||
        tap.original->intermediateSize() != block->intermediateSize())
      throwInvalid(env, "original.block", "a block of the same device and shape", object.Get("block"));
    tap.originalPass = asDevicePass(object.Get("pass"), "original.pass", *tap.original);
    if (tap.originalPass.states->tokens() != pass.states->tokens() || tap.originalPass.states == pass.states)
      throwInvalid(env, "original.pass", "another pass over as many tokens", object.Get("pass"));
  }
  auto pool = asThreads(info[2]);
  return startJob(
      env,
      [=](const CancelFlag& cancelled) {
        return block->runStage(stage, pass, windows, tap, *pool, cancelled);
      },
      [](Napi::Env e) { return e.Undefined(); });
}

// backward(inputs, gradients, { sequenceLength, taps?, fisher?, tileTokens? }, threads):
// NativeJob<BlockGradients>
Napi::Value CudaCalibrationBlockObject::backward(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto block = this->block(info);
  const size_t hidden = block->spec().hiddenSize;
  auto inputs = asStates(info[0], "inputs", block->device(), 0, hidden);
  auto gradients = asStates(info[1], "gradients", block->device(), inputs->tokens(), hidden);
  if (inputs == gradients) throwInvalid(env, "gradients", "other states than inputs", info[1]);
  const auto options = asObject(info[2], "options");
  const cuda::CalibrationWindows windows = asWindows(options);
  auto taps = asDeviceTaps(options.Get("taps"), *block);
  if (const Napi::Value given = options.Get("weightGradients");
      !isMissing(given) && asBoolean(given, "weightGradients"))
    throw toError(env, Status::invalidArgument("weightGradients", "none on a device", "true",
                                               "Call backward of the block itself, which runs on the CPU"));
  auto fisher = std::make_shared<cuda::DeviceFisherSums>(inputs->tokens());
  const Napi::Value given = options.Get("fisher");
  const bool wanted = !isMissing(given) && asBoolean(given, "fisher");
  auto pool = asThreads(info[3]);
  return startJob(
      env,
      [=](const CancelFlag& cancelled) {
        return block->backward(*inputs, *gradients, windows, taps.get(), wanted ? fisher.get() : nullptr,
                               *pool, cancelled);
      },
      [=](Napi::Env e) { return toBlockGradients(e, fisher->rows(), fisher->tokenPowers()); });
}

Napi::Value CudaCalibrationBlockObject::dispose(const Napi::CallbackInfo& info) {
  block_.reset();
  return info.Env().Undefined();
}

// states(source: NativeTensor | NativeCudaStates | { tokens, width }, { onHost?, spillDirectory? }?):
// NativeJob<NativeCudaStates>
Napi::Value CudaDeviceObject::states(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto device = this->device(info);
  cuda::DeviceStates::Options options;
  if (!isMissing(info[1])) {
    const auto given = asObject(info[1], "options");
    if (const Napi::Value onHost = given.Get("onHost"); !isMissing(onHost))
      options.onHost = asBoolean(onHost, "options.onHost");
    if (const Napi::Value spill = given.Get("spillDirectory"); !isMissing(spill))
      options.spillDirectory = asString(spill, "options.spillDirectory");
  }
  auto result = std::make_shared<std::shared_ptr<cuda::DeviceStates>>();
  std::function<Status()> make;
  if (TensorPtr source = TensorObject::get(info[0])) {
    if (source->dtype() != DType::F32 || source->shape().size() != 2 || source->elements() == 0)
      throw toError(env, Status::invalidArgument("source", "F32 [tokens, width]", describeShape(*source)));
    make = [=] { return cuda::DeviceStates::make(device, source, options, *result); };
  } else if (auto copied = CudaStatesObject::get(info[0])) {
    if (copied->device() != device) throwInvalid(env, "source", "states of this device", info[0]);
    make = [=] { return cuda::DeviceStates::copy(*copied, options, *result); };
  } else {
    if (!info[0].IsObject()) throwInvalid(env, "source", "a tensor, states or { tokens, width }", info[0]);
    const auto shape = info[0].As<Napi::Object>();
    const size_t tokens = asSize(shape.Get("tokens"), "source.tokens", 1),
                 width = asSize(shape.Get("width"), "source.width", 1);
    make = [=] { return cuda::DeviceStates::make(device, tokens, width, options, *result); };
  }
  return startJob(
      env, [=](const CancelFlag&) { return make(); },
      [=](Napi::Env e) { return CudaStatesObject::wrap(e, *result); });
}

// headGradient(states, HeadOptions, threads): NativeJob<HeadGradient<NativeCudaStates>>
Napi::Value CudaDeviceObject::headGradient(const Napi::CallbackInfo& info) {
  const HeadStep step = asHeadStep(info[1]);
  auto states = asStates(info[0], "states", device(info), 0, step.head->weight.cols);
  auto pool = asThreads(info[2]);
  auto gradients = std::make_shared<std::shared_ptr<cuda::DeviceStates>>();
  auto result = std::make_shared<HeadGradient>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        return cuda::headGradient(*step.head, step.labels, *states, step.sequenceLength, *gradients, *result,
                                  *pool, cancelled);
      },
      [=](Napi::Env e) { return toObject(e, *result, CudaStatesObject::wrap(e, *gradients)); });
}

// calibrationBlock(block, threads): NativeJob<NativeCudaCalibrationBlock>
Napi::Value CudaDeviceObject::calibrationBlock(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  auto source = DecoderBlockObject::get(info[0]);
  if (!source) throwInvalid(info.Env(), "block", "a decoder block that is not disposed", info[0]);
  asThreads(info[1]);
  auto result = std::make_shared<std::shared_ptr<cuda::CalibrationBlock>>();
  return startJob(
      info.Env(), [=](const CancelFlag&) { return cuda::CalibrationBlock::make(device, source, *result); },
      [=](Napi::Env e) { return CudaCalibrationBlockObject::wrap(e, *result); });
}

void registerCudaCalibration(Napi::Env env) {
  env.GetInstanceData<AddonData>()->cudaStates = Napi::Persistent(CudaStatesObject::define(env));
  env.GetInstanceData<AddonData>()->cudaCalibrationBlock =
      Napi::Persistent(CudaCalibrationBlockObject::define(env));
}

}  // namespace slim::addon
