#include "addon/arguments.h"
#include "addon/decoder_object.h"
#include "addon/hessian_object.h"
#include "addon/packed_object.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kBlockTag = {0x2b6f0c1de85f4a77, 0x93c1d7a8660e2f15};

template <typename Enum>
using Names = std::initializer_list<std::pair<const char*, Enum>>;

template <typename Enum>
Enum asEnum(const Napi::Value& value, const std::string& name, Names<Enum> names) {
  std::string known;
  for (const auto& [text, e] : names) {
    if (value.IsString() && value.As<Napi::String>().Utf8Value() == text) return e;
    known += (known.empty() ? "" : ", ") + std::string(text);
  }
  throwInvalid(value.Env(), name, "one of " + known, value);
}

BlockSpec asBlockSpec(const Napi::Value& value) {
  const auto object = asObject(value, "spec");
  BlockSpec spec;
  spec.hiddenSize = asSize(object.Get("hiddenSize"), "spec.hiddenSize", 1);
  spec.heads = asSize(object.Get("heads"), "spec.heads", 1);
  spec.kvHeads = asSize(object.Get("kvHeads"), "spec.kvHeads", 1);
  spec.headDim = asSize(object.Get("headDim"), "spec.headDim", 1);
  spec.norm = asNormSpec(object.Get("norm"), "spec.norm");
  if (const Napi::Value given = object.Get("rotary"); !isMissing(given)) {
    const auto rotary = asObject(given, "spec.rotary");
    spec.rotary.dim = asSize(rotary.Get("dim"), "spec.rotary.dim", 2);
    spec.rotary.scale = float(asNumber(rotary.Get("scale"), "spec.rotary.scale"));
    const Napi::Value frequencies = rotary.Get("inverseFrequencies");
    if (!frequencies.IsTypedArray() ||
        frequencies.As<Napi::TypedArray>().TypedArrayType() != napi_float32_array)
      throwInvalid(value.Env(), "spec.rotary.inverseFrequencies", "a Float32Array", frequencies);
    const auto array = frequencies.As<Napi::Float32Array>();
    spec.rotary.inverseFrequencies.assign(array.Data(), array.Data() + array.ElementLength());
  }
  const auto attention = asObject(object.Get("attention"), "spec.attention");
  spec.attention.scale = float(asNumber(attention.Get("scale"), "spec.attention.scale"));
  spec.attention.softcap = float(asNumber(attention.Get("softcap"), "spec.attention.softcap"));
  spec.attention.window = asSize(attention.Get("window"), "spec.attention.window");
  spec.qkvLayout = asEnum<QkvLayout>(
      object.Get("qkvLayout"), "spec.qkvLayout",
      {{"separate", QkvLayout::Separate}, {"stacked", QkvLayout::Stacked}, {"perHead", QkvLayout::PerHead}});
  spec.activation = asEnum<Activation>(object.Get("activation"), "spec.activation",
                                       {{"silu", Activation::Silu},
                                        {"gelu", Activation::Gelu},
                                        {"geluTanh", Activation::GeluTanh},
                                        {"relu", Activation::Relu}});
  spec.mlp = asEnum<Mlp>(object.Get("mlp"), "spec.mlp",
                         {{"gated", Mlp::Gated}, {"gatedStacked", Mlp::GatedStacked}, {"plain", Mlp::Plain}});
  spec.residual = asEnum<Residual>(object.Get("residual"), "spec.residual",
                                   {{"sequential", Residual::Sequential}, {"parallel", Residual::Parallel}});
  return spec;
}

// Calls visit(role, { weight, bias }, name of the role in errors) for every role that is given.
template <typename Visit>
void forEachRole(const Napi::Value& value, const std::string& name, Visit visit) {
  const auto object = asObject(value, name);
  const auto roles = object.GetPropertyNames();
  for (uint32_t i = 0; i < roles.Length(); ++i) {
    const std::string role = roles.Get(i).As<Napi::String>().Utf8Value();
    const Napi::Value part = object.Get(role);
    if (!isMissing(part)) visit(role, asObject(part, name + "." + role), name + "." + role);
  }
}

BlockWeights asBlockWeights(const Napi::Value& value) {
  const auto object = asObject(value, "weights");
  BlockWeights weights;
  forEachRole(object.Get("linears"), "linears",
              [&](const std::string& role, const Napi::Object& part, const std::string& name) {
                weights.linears[role] = {asWeight(part.Get("weight"), name + ".weight"),
                                         asOptionalTensor(part.Get("bias"), name + ".bias")};
              });
  forEachRole(object.Get("norms"), "norms",
              [&](const std::string& role, const Napi::Object& part, const std::string& name) {
                weights.norms[role] = {asTensor(part.Get("weight"), name + ".weight"),
                                       asOptionalTensor(part.Get("bias"), name + ".bias")};
              });
  return weights;
}

std::shared_ptr<Hessian> asTap(const Napi::Object& taps, const char* name, size_t size) {
  const Napi::Value value = taps.Get(name);
  if (isMissing(value)) return nullptr;
  std::shared_ptr<Hessian> hessian = HessianObject::get(value);
  const std::string parameter = std::string("taps.") + name;
  if (!hessian) throwInvalid(value.Env(), parameter, "a Hessian that is not disposed", value);
  if (hessian->size() != size)
    throw toError(value.Env(), Status::invalidArgument(parameter, "a Hessian of size " + std::to_string(size),
                                                       std::to_string(hessian->size())));
  return hessian;
}

}  // namespace

NormSpec asNormSpec(const Napi::Value& value, const std::string& name) {
  const auto norm = asObject(value, name);
  NormSpec spec;
  spec.kind = asEnum<NormSpec::Kind>(norm.Get("kind"), name + ".kind",
                                     {{"rms", NormSpec::Kind::Rms}, {"layer", NormSpec::Kind::Layer}});
  spec.eps = float(asNumber(norm.Get("eps"), name + ".eps"));
  spec.unitOffset = asBoolean(norm.Get("unitOffset"), name + ".unitOffset");
  return spec;
}

Stage asStage(const Napi::Value& value) {
  return asEnum<Stage>(value, "stage",
                       {{"qkv", Stage::Qkv},
                        {"o", Stage::O},
                        {"gateUp", Stage::GateUp},
                        {"down", Stage::Down},
                        {"end", Stage::End}});
}

std::shared_ptr<BlockTaps> asTaps(const Napi::Value& value, const DecoderBlock& block) {
  if (isMissing(value)) return nullptr;
  const auto object = asObject(value, "taps");
  const BlockSpec& spec = block.spec();
  auto taps = std::make_shared<BlockTaps>();
  taps->qkv = asTap(object, "qkv", spec.hiddenSize);
  taps->o = asTap(object, "o", spec.queryWidth());
  taps->gateUp = asTap(object, "gateUp", spec.hiddenSize);
  taps->down = asTap(object, "down", block.intermediateSize());
  return taps;
}

Weight asWeight(const Napi::Value& value, const std::string& name) {
  if (TensorPtr tensor = TensorObject::get(value)) return Weight::of(std::move(tensor));
  std::shared_ptr<PackedMatrix> packed = PackedObject::get(value);
  if (!packed)
    throwInvalid(value.Env(), name, "a native tensor or packed matrix that is not disposed", value);
  return Weight::of(std::move(packed));
}

DecoderBlockObject::DecoderBlockObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  guarded(info.Env(), [&] {
    throwIfError(info.Env(), DecoderBlock::make(asBlockSpec(info[0]), asBlockWeights(info[1]), block_));
  });
  info.This().As<Napi::Object>().TypeTag(&kBlockTag);
}

std::shared_ptr<DecoderBlock> DecoderBlockObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kBlockTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->block_;
}

// forward(states, { sequenceLength, taps? }, threads): NativeJob<void>
Napi::Value DecoderBlockObject::forward(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  if (!block_) throw toError(env, Status::error("SLIM_DISPOSED", "The decoder block is disposed"));
  TensorPtr states = asTensor(info[0], "states");
  const BlockSpec& spec = block_->spec();
  if (states->dtype() != DType::F32 || states->shape().size() != 2 || states->cols() != spec.hiddenSize)
    throwInvalid(env, "states", "a tensor [tokens, " + std::to_string(spec.hiddenSize) + "] of F32", info[0]);
  const auto options = asObject(info[1], "options");
  const size_t sequenceLength = asSize(options.Get("sequenceLength"), "sequenceLength", 1);
  auto taps = asTaps(options.Get("taps"), *block_);
  auto pool = asThreads(info[2]);
  return startJob(
      env,
      [=, block = block_](const CancelFlag& cancelled) {
        BlockScratch scratch;
        return block->forward(states->as<float>(), states->rows(), sequenceLength, taps.get(), scratch, *pool,
                              cancelled);
      },
      [](Napi::Env e) { return e.Undefined(); });
}

namespace {

// The tensors of a staged pass, and the pass that points into them.
struct StagedTensors {
  TensorPtr states, attended, inner;

  StagedPass pass() const { return {states->as<float>(), attended->as<float>(), inner->as<float>()}; }
};

StagedTensors asStagedTensors(const Napi::Value& value, const std::string& name, const DecoderBlock& block) {
  const auto object = asObject(value, name);
  size_t tokens = 0;
  const auto tensor = [&](const char* part, size_t cols) {
    const Napi::Value given = object.Get(part);
    TensorPtr t = asTensor(given, name + "." + part);
    if (tokens == 0) tokens = t->rows();
    if (t->dtype() != DType::F32 || t->shape().size() != 2 || t->rows() != tokens || t->cols() != cols)
      throw toError(value.Env(), Status::invalidArgument(
                                     name + "." + part,
                                     "F32 [" + std::to_string(tokens) + ", " + std::to_string(cols) + "]",
                                     describeShape(*t)));
    return t;
  };
  return {tensor("states", block.spec().hiddenSize), tensor("attended", block.spec().queryWidth()),
          tensor("inner", block.intermediateSize())};
}

}  // namespace

// stage(name, { sequenceLength, pass, hessian?, original?: { block, pass } }, threads): NativeJob<void>
Napi::Value DecoderBlockObject::stage(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  if (!block_) throw toError(env, Status::error("SLIM_DISPOSED", "The decoder block is disposed"));
  const Stage stage = asStage(info[0]);
  const auto options = asObject(info[1], "options");
  const size_t sequenceLength = asSize(options.Get("sequenceLength"), "sequenceLength", 1);
  const StagedTensors tensors = asStagedTensors(options.Get("pass"), "pass", *block_);
  const size_t sizes[] = {block_->spec().hiddenSize, block_->spec().queryWidth(), block_->spec().hiddenSize,
                          block_->intermediateSize(), 0};
  std::shared_ptr<Hessian> hessian;
  if (const Napi::Value given = options.Get("hessian"); !isMissing(given)) {
    hessian = asHessian(given, "hessian");
    if (stage == Stage::End || hessian->size() != sizes[size_t(stage)])
      throwInvalid(env, "hessian",
                   "a Hessian of the stage's " + std::to_string(sizes[size_t(stage)]) + " inputs", given);
  }
  std::shared_ptr<DecoderBlock> original;
  StagedTensors originalTensors;
  if (const Napi::Value given = options.Get("original"); !isMissing(given)) {
    const auto object = asObject(given, "original");
    original = get(object.Get("block"));
    if (!original || original->spec().hiddenSize != block_->spec().hiddenSize ||
        original->spec().queryWidth() != block_->spec().queryWidth() ||
        original->intermediateSize() != block_->intermediateSize())
      throwInvalid(env, "original.block", "a decoder block of the same shape", object.Get("block"));
    originalTensors = asStagedTensors(object.Get("pass"), "original.pass", *original);
    if (originalTensors.states->rows() != tensors.states->rows() || originalTensors.states == tensors.states)
      throwInvalid(env, "original.pass", "another pass over as many tokens", object.Get("pass"));
  }
  auto pool = asThreads(info[2]);
  return startJob(
      env,
      [=, block = block_](const CancelFlag& cancelled) {
        StageTap tap{hessian.get(), original.get(), {}};
        if (original) tap.originalPass = originalTensors.pass();
        return block->runStage(stage, tensors.pass(), tensors.states->rows(), sequenceLength, tap, *pool,
                               cancelled);
      },
      [](Napi::Env e) { return e.Undefined(); });
}

Napi::Value DecoderBlockObject::dispose(const Napi::CallbackInfo& info) {
  block_.reset();
  return info.Env().Undefined();
}

Napi::Function DecoderBlockObject::define(Napi::Env env) {
  return DefineClass(env, "DecoderBlock",
                     {instanceMethod<&DecoderBlockObject::forward>("forward"),
                      instanceMethod<&DecoderBlockObject::stage>("stage"),
                      instanceMethod<&DecoderBlockObject::backward>("backward"),
                      instanceMethod<&DecoderBlockObject::dispose>("dispose")});
}

}  // namespace slim::addon
