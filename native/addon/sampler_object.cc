#include "addon/sampler_object.h"

#include "addon/arguments.h"
#include "addon/decoder_object.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kSamplerTag = {0x4f1c92d8be6a0735, 0xd27b50a1e83f469c};

SamplerOptions asSamplerOptions(const Napi::Value& value) {
  SamplerOptions options;
  const auto object = asObject(value, "options");
  const auto number = [&](const char* name, double& out) {
    if (const Napi::Value given = object.Get(name); !isMissing(given)) out = asNumber(given, name);
  };
  const auto size = [&](const char* name, size_t& out) {
    if (const Napi::Value given = object.Get(name); !isMissing(given)) out = asSize(given, name);
  };
  number("temperature", options.temperature);
  size("topK", options.topK);
  number("topP", options.topP);
  number("minP", options.minP);
  number("repetitionPenalty", options.repetitionPenalty);
  size("repetitionWindow", options.repetitionWindow);
  if (const Napi::Value given = object.Get("seed"); !isMissing(given)) options.seed = asSeed(given);
  size("topLogprobs", options.topLogprobs);
  return options;
}

Napi::Object toObject(Napi::Env env, const TokenLogprob& token) {
  auto object = Napi::Object::New(env);
  object.Set("tokenId", token.tokenId);
  object.Set("logprob", token.logprob);
  return object;
}

}  // namespace

Napi::Value toValue(Napi::Env env, const SampledToken& token) {
  auto object = toObject(env, token);
  auto top = Napi::Array::New(env, token.top.size());
  for (size_t i = 0; i < token.top.size(); ++i) top.Set(uint32_t(i), toObject(env, token.top[i]));
  object.Set("top", top);
  return object;
}

SamplerObject::SamplerObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  guarded(info.Env(), [&] {
    const SamplerOptions options = asSamplerOptions(info[0]);
    throwIfError(info.Env(), options.check());
    sampler_ = std::make_shared<SharedSampler>(options);
  });
  info.This().As<Napi::Object>().TypeTag(&kSamplerTag);
}

std::shared_ptr<SharedSampler> SamplerObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kSamplerTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->sampler_;
}

BusyHold SamplerObject::holdIdle(const Napi::CallbackInfo& info) const {
  if (!sampler_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The sampler is disposed"));
  return hold(info.Env(), sampler_, "sampler", "a sampler that no step is using", "Await the step first");
}

// sample(logits): SampledToken
Napi::Value SamplerObject::sample(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const BusyHold held = holdIdle(info);
  if (!info[0].IsTypedArray() || info[0].As<Napi::TypedArray>().TypedArrayType() != napi_float32_array ||
      info[0].As<Napi::TypedArray>().ElementLength() == 0)
    throwInvalid(env, "logits", "a Float32Array of at least one logit", info[0]);
  const auto given = info[0].As<Napi::Float32Array>();
  std::vector<float> logits(given.Data(), given.Data() + given.ElementLength());
  Sampler next = sampler_->sampler;
  SamplerScratch scratch;
  SampledToken token;
  throwIfError(env, next.sample(logits.data(), logits.size(), scratch, token));
  sampler_->sampler = std::move(next);
  return toValue(env, token);
}

// accept(ids)
Napi::Value SamplerObject::accept(const Napi::CallbackInfo& info) {
  const auto ids = asIds(info[0], "ids");
  const BusyHold held = holdIdle(info);
  sampler_->sampler.accept(ids);
  return info.Env().Undefined();
}

Napi::Value SamplerObject::dispose(const Napi::CallbackInfo& info) {
  sampler_.reset();
  return info.Env().Undefined();
}

Napi::Function SamplerObject::define(Napi::Env env) {
  return DefineClass(
      env, "Sampler",
      {instanceMethod<&SamplerObject::sample>("sample"), instanceMethod<&SamplerObject::accept>("accept"),
       instanceMethod<&SamplerObject::dispose>("dispose")});
}

}  // namespace slim::addon
