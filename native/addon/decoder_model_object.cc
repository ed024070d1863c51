#include <cstring>
#include <optional>

#include "addon/arguments.h"
#include "addon/decoder_object.h"
#include "addon/sampler_object.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kModelTag = {0x71d94e0b3ac84c26, 0xb5f2086d9e17a34c};

// The embedding's part of a model's parts.
Embedding asEmbedding(const Napi::Object& object) {
  Embedding embedding;
  embedding.table = asWeight(object.Get("embedding"), "embedding");
  if (const Napi::Value given = object.Get("positions"); !isMissing(given)) {
    const auto positions = asObject(given, "positions");
    embedding.positions = asTensor(positions.Get("weight"), "positions.weight");
    embedding.positionOffset = asSize(positions.Get("offset"), "positions.offset");
  }
  embedding.scale = float(asNumber(object.Get("embeddingScale"), "embeddingScale"));
  return embedding;
}

ModelParts asParts(const Napi::Value& value) {
  const auto object = asObject(value, "parts");
  ModelParts parts = asOuterParts(object);
  const Napi::Value blocks = object.Get("blocks");
  if (!blocks.IsArray()) throwInvalid(value.Env(), "blocks", "an array of decoder blocks", blocks);
  for (uint32_t i = 0; i < blocks.As<Napi::Array>().Length(); ++i) {
    const Napi::Value block = blocks.As<Napi::Array>().Get(i);
    parts.blocks.push_back(DecoderBlockObject::get(block));
    if (!parts.blocks.back())
      throwInvalid(value.Env(), "blocks[" + std::to_string(i) + "]", "a decoder block that is not disposed",
                   block);
  }
  if (const Napi::Value given = object.Get("activations"); !isMissing(given)) {
    const std::string name = asString(given, "activations");
    if (name != "int8" && name != "float32")
      throwInvalid(value.Env(), "activations", "'int8' or 'float32'", given);
    parts.int8 = name == "int8";
  }
  return parts;
}

template <typename Array, typename Element>
Napi::Value toTypedArray(Napi::Env env, const std::vector<Element>& values) {
  auto array = Array::New(env, values.size());
  if (!values.empty()) std::memcpy(array.Data(), values.data(), values.size() * sizeof(Element));
  return array;
}

Napi::Value toFloats(Napi::Env env, const std::vector<float>& values) {
  return toTypedArray<Napi::Float32Array>(env, values);
}

}  // namespace

ModelParts asOuterParts(const Napi::Object& object) {
  ModelParts parts;
  parts.embedding = asEmbedding(object);
  if (const Napi::Value given = object.Get("finalNorm"); !isMissing(given)) {
    const auto norm = asObject(given, "finalNorm");
    parts.finalNormWeight = asTensor(norm.Get("weight"), "finalNorm.weight");
    parts.finalNormBias = asOptionalTensor(norm.Get("bias"), "finalNorm.bias");
  }
  parts.head = asWeight(object.Get("head"), "head");
  parts.logitSoftcap = float(asNumber(object.Get("logitSoftcap"), "logitSoftcap"));
  return parts;
}

std::vector<int32_t> asIds(const Napi::Value& value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_int32_array)
    throwInvalid(value.Env(), name, "an Int32Array of token ids", value);
  const auto array = value.As<Napi::Int32Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

DecoderModelObject::DecoderModelObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  if (info[0].IsExternal())
    model_ = *info[0].As<Napi::External<std::shared_ptr<LanguageModel>>>().Data();
  else
    guarded(info.Env(), [&] {
      std::shared_ptr<DecoderModel> model;
      throwIfError(info.Env(), DecoderModel::make(asParts(info[0]), model));
      model_ = std::move(model);
    });
  info.This().As<Napi::Object>().TypeTag(&kModelTag);
}

Napi::Value DecoderModelObject::wrap(Napi::Env env, std::shared_ptr<LanguageModel> model) {
  return env.GetInstanceData<AddonData>()->decoderModel.New(
      {Napi::External<std::shared_ptr<LanguageModel>>::New(env, &model)});
}

std::shared_ptr<LanguageModel> DecoderModelObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kModelTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->model_;
}

std::shared_ptr<LanguageModel> DecoderModelObject::model(const Napi::CallbackInfo& info) const {
  if (!model_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The model is disposed"));
  return model_;
}

// prepare(threads): NativeJob<void>
Napi::Value DecoderModelObject::prepare(const Napi::CallbackInfo& info) {
  auto m = model(info);
  auto pool = asThreads(info[0]);
  return startJob(
      info.Env(), [=](const CancelFlag& cancelled) { return m->prepare(*pool, cancelled); },
      [](Napi::Env e) { return e.Undefined(); });
}

// logits(ids, threads): NativeJob<Float32Array>
Napi::Value DecoderModelObject::logits(const Napi::CallbackInfo& info) {
  auto m = model(info);
  auto ids = asIds(info[0], "ids");
  auto pool = asThreads(info[1]);
  auto out = std::make_shared<std::vector<float>>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        out->resize(ids.size() * m->vocab());
        return m->logits(ids, out->data(), *pool, cancelled);
      },
      [=](Napi::Env e) { return toFloats(e, *out); });
}

// tokenNll(ids, threads): NativeJob<Float32Array>
Napi::Value DecoderModelObject::tokenNll(const Napi::CallbackInfo& info) {
  auto m = model(info);
  auto ids = asIds(info[0], "ids");
  auto pool = asThreads(info[1]);
  auto out = std::make_shared<std::vector<float>>();
  return startJob(
      info.Env(), [=](const CancelFlag& cancelled) { return m->tokenNll(ids, *out, *pool, cancelled); },
      [=](Napi::Env e) { return toFloats(e, *out); });
}

// compare(reference, ids, threads): NativeJob<{ nll, referenceNll, kl, agrees }>
Napi::Value DecoderModelObject::compare(const Napi::CallbackInfo& info) {
  auto m = model(info);
  auto reference = get(info[0]);
  if (!reference) throwInvalid(info.Env(), "reference", "a decoder model that is not disposed", info[0]);
  auto ids = asIds(info[1], "ids");
  auto pool = asThreads(info[2]);
  auto out = std::make_shared<Comparison>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) { return m->compare(*reference, ids, *out, *pool, cancelled); },
      [=](Napi::Env e) {
        auto result = Napi::Object::New(e);
        result.Set("nll", toFloats(e, out->nll));
        result.Set("referenceNll", toFloats(e, out->referenceNll));
        result.Set("kl", toFloats(e, out->kl));
        result.Set("agrees", toTypedArray<Napi::Uint8Array>(e, out->agrees));
        return result;
      });
}

// cache(capacity, dtype): NativeKvCache
Napi::Value DecoderModelObject::cache(const Napi::CallbackInfo& info) {
  auto shared = std::make_shared<SharedCache>();
  shared->model = model(info);
  const std::string name = isMissing(info[1]) ? "F16" : asString(info[1], "dtype");
  const std::optional<CacheDType> dtype = cacheDTypeFromName(name);
  if (!dtype) throwInvalid(info.Env(), "dtype", "'F16', 'I8' or 'F32'", info[1]);
  throwIfError(info.Env(), shared->model->makeCache(asSize(info[0], "capacity", 1), *dtype, shared->cache));
  return KvCacheObject::wrap(info.Env(), std::move(shared));
}

namespace {

/// A step's sequences, with its hold on their caches and samplers.
struct Step {
  std::vector<StepSequence> sequences;
  std::vector<std::shared_ptr<SharedCache>> caches;
  std::vector<std::shared_ptr<SharedSampler>> samplers;
  std::vector<BusyHold> holds;
  std::vector<std::optional<SampledToken>> tokens;
};

}  // namespace

// step([{ cache, ids, sampler? }], threads): NativeJob<(SampledToken | null)[]>
Napi::Value DecoderModelObject::step(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto m = model(info);
  if (!info[0].IsArray()) throwInvalid(env, "sequences", "an array of { cache, ids, sampler }", info[0]);
  const auto given = info[0].As<Napi::Array>();
  auto step = std::make_shared<Step>();
  for (uint32_t i = 0; i < given.Length(); ++i) {
    const std::string name = "sequences[" + std::to_string(i) + "]";
    const auto object = asObject(given.Get(i), name);
    const Napi::Value cacheValue = object.Get("cache"), samplerValue = object.Get("sampler");
    auto cache = KvCacheObject::get(cacheValue);
    if (!cache || cache->model != m)
      throwInvalid(env, name + ".cache", "a cache of this model that is not disposed", cacheValue);
    StepSequence sequence{cache->cache.get(), asIds(object.Get("ids"), name + ".ids"), nullptr};
    step->holds.push_back(hold(env, cache, name + ".cache", "a cache that no step is using",
                               "Await the previous step, or use one cache a sequence"));
    step->caches.push_back(std::move(cache));
    if (!isMissing(samplerValue)) {
      auto sampler = SamplerObject::get(samplerValue);
      if (!sampler) throwInvalid(env, name + ".sampler", "a sampler that is not disposed", samplerValue);
      sequence.sampler = &sampler->sampler;
      step->holds.push_back(hold(env, sampler, name + ".sampler", "a sampler that no step is using",
                                 "Await the previous step, or use one sampler a sequence"));
      step->samplers.push_back(std::move(sampler));
    }
    step->sequences.push_back(std::move(sequence));
  }
  auto pool = asThreads(info[1]);
  return startJob(
      env,
      [=](const CancelFlag& cancelled) { return m->step(step->sequences, step->tokens, *pool, cancelled); },
      // The step is held here: caches and samplers are free when the promise settles, whatever the outcome.
      [step](Napi::Env e) {
        auto result = Napi::Array::New(e, step->tokens.size());
        for (size_t i = 0; i < step->tokens.size(); ++i)
          result.Set(uint32_t(i), step->tokens[i] ? toValue(e, *step->tokens[i]) : e.Null());
        return result;
      });
}

Napi::Value DecoderModelObject::dispose(const Napi::CallbackInfo& info) {
  model_.reset();
  return info.Env().Undefined();
}

Napi::Function DecoderModelObject::define(Napi::Env env) {
  return DefineClass(
      env, "DecoderModel",
      {instanceMethod<&DecoderModelObject::prepare>("prepare"),
       instanceMethod<&DecoderModelObject::logits>("logits"),
       instanceMethod<&DecoderModelObject::tokenNll>("tokenNll"),
       instanceMethod<&DecoderModelObject::compare>("compare"),
       instanceMethod<&DecoderModelObject::cache>("cache"), instanceMethod<&DecoderModelObject::step>("step"),
       instanceMethod<&DecoderModelObject::dispose>("dispose")});
}

// embedTokens(ids, sequenceLength, { embedding, positions?, embeddingScale }, spillDirectory, threads)
Napi::Value embedTokens(const Napi::CallbackInfo& info) {
  auto ids = asIds(info[0], "ids");
  const size_t sequenceLength = asSize(info[1], "sequenceLength", 1);
  const auto embedding = asEmbedding(asObject(info[2], "parts"));
  throwIfError(info.Env(), embedding.check());
  const std::string spillDirectory = isMissing(info[3]) ? "" : asString(info[3], "spillDirectory");
  auto pool = asThreads(info[4]);
  auto states = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        SLIM_RETURN_IF_ERROR(
            Tensor::allocate(DType::F32, {ids.size(), embedding.hidden()}, *states, spillDirectory));
        return embedding.embed(ids, sequenceLength, 0, (*states)->as<float>(), *pool, cancelled);
      },
      [=](Napi::Env e) { return TensorObject::wrap(e, *states); });
}

}  // namespace slim::addon
