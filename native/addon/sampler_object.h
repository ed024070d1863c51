// Sampler as a JavaScript object (NativeSampler in lib/native/addon.ts).
#pragma once
#include <napi.h>

#include <memory>

#include "addon/busy.h"
#include "addon/native_object.h"
#include "decoder/sampler.h"

namespace slim::addon {

struct SharedSampler : Busy {
  explicit SharedSampler(const SamplerOptions& options) : sampler(options) {}
  Sampler sampler;
};

class SamplerObject : public NativeObject<SamplerObject> {
 public:
  explicit SamplerObject(const Napi::CallbackInfo& info);
  /// nullptr when the value is not a sampler or is disposed.
  static std::shared_ptr<SharedSampler> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value sample(const Napi::CallbackInfo& info);
  Napi::Value accept(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  /// Throws when it is disposed or a step has it.
  BusyHold holdIdle(const Napi::CallbackInfo& info) const;

  std::shared_ptr<SharedSampler> sampler_;
};

/// { tokenId, logprob, top }
Napi::Value toValue(Napi::Env env, const SampledToken& token);

}  // namespace slim::addon
