// The decoder as JavaScript objects: DecoderBlock, DecoderModel and its KvCache (lib/native/addon.ts).
#pragma once
#include <napi.h>

#include "addon/busy.h"
#include "addon/native_object.h"
#include "decoder/block.h"
#include "decoder/head_gradient.h"
#include "decoder/model.h"

namespace slim::addon {

/// A dense tensor or a packed matrix as a linear layer's weight.
Weight asWeight(const Napi::Value& value, const std::string& name);

Stage asStage(const Napi::Value& value);

class DecoderBlockObject : public NativeObject<DecoderBlockObject> {
 public:
  explicit DecoderBlockObject(const Napi::CallbackInfo& info);
  /// nullptr when the value is not a block or is disposed.
  static std::shared_ptr<DecoderBlock> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value forward(const Napi::CallbackInfo& info);
  Napi::Value stage(const Napi::CallbackInfo& info);
  Napi::Value backward(const Napi::CallbackInfo& info);  // decoder_backward.cc
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<DecoderBlock> block_;
};

/// A cache belongs to the model that made it.
struct SharedCache : Busy {
  std::shared_ptr<LanguageModel> model;
  std::shared_ptr<SequenceCache> cache;
};

class KvCacheObject : public NativeObject<KvCacheObject> {
 public:
  explicit KvCacheObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<SharedCache> cache);
  static std::shared_ptr<SharedCache> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getLength(const Napi::CallbackInfo& info);
  Napi::Value getCapacity(const Napi::CallbackInfo& info);
  Napi::Value getDType(const Napi::CallbackInfo& info);
  Napi::Value getByteLength(const Napi::CallbackInfo& info);
  Napi::Value truncate(const Napi::CallbackInfo& info);
  Napi::Value copyPrefix(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  /// Throws when it is disposed.
  SharedCache& shared(const Napi::CallbackInfo& info) const;

  std::shared_ptr<SharedCache> cache_;
};

class DecoderModelObject : public NativeObject<DecoderModelObject> {
 public:
  explicit DecoderModelObject(const Napi::CallbackInfo& info);
  /// An object of a model, which others may have too.
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<LanguageModel> model);
  static std::shared_ptr<LanguageModel> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  std::shared_ptr<LanguageModel> model(const Napi::CallbackInfo& info) const;
  Napi::Value prepare(const Napi::CallbackInfo& info);
  Napi::Value logits(const Napi::CallbackInfo& info);
  Napi::Value tokenNll(const Napi::CallbackInfo& info);
  Napi::Value compare(const Napi::CallbackInfo& info);
  Napi::Value cache(const Napi::CallbackInfo& info);
  Napi::Value step(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);

  std::shared_ptr<LanguageModel> model_;
};

/// A model's parts but its blocks.
ModelParts asOuterParts(const Napi::Object& object);  // decoder_model_object.cc
/// The argument of forward and backward: Hessians of the block's taps, or null.
std::shared_ptr<BlockTaps> asTaps(const Napi::Value& value, const DecoderBlock& block);
/// BlockGradients of sums by role, powers by tap and ∂L/∂W by role.
Napi::Object toBlockGradients(
    Napi::Env env, const std::map<std::string, std::vector<double>>& fisher,
    const std::map<std::string, std::vector<float>>& tokenPowers,
    const std::map<std::string, TensorPtr>& weightGradients = {});              // decoder_backward.cc
std::vector<int32_t> asIds(const Napi::Value& value, const std::string& name);  // decoder_model_object.cc
NormSpec asNormSpec(const Napi::Value& value, const std::string& name);
/// HeadOptions of lib/native/addon.ts.
struct HeadStep {
  std::shared_ptr<const Head> head;
  Labels labels;
  size_t sequenceLength;
};
HeadStep asHeadStep(const Napi::Value& value);  // decoder_backward.cc
Napi::Value toObject(Napi::Env env, const HeadGradient& result, const Napi::Value& gradients);
Napi::Value headGradientFunction(const Napi::CallbackInfo& info);  // decoder_backward.cc
Napi::Value embedTokens(const Napi::CallbackInfo& info);           // decoder_model_object.cc

}  // namespace slim::addon
