// One copy of a model's weights for all threads of the process: models by a key, which says what they were
// made of and how. The registry owns nothing: a model is freed with the last object of any thread that uses
// it.
#include <map>
#include <memory>
#include <mutex>
#include <string>

#include "addon/arguments.h"
#include "addon/decoder_object.h"

namespace slim::addon {
namespace {

class SharedModels {
 public:
  static SharedModels& instance() {
    static SharedModels models;
    return models;
  }

  /// The model of this key, if it is loaded. `claimed`: it is not, and the caller is the one to load it.
  std::shared_ptr<LanguageModel> find(const std::string& key, bool& claimed) {
    std::lock_guard lock(mutex_);
    std::erase_if(entries_,
                  [](const auto& entry) { return !entry.second.loading && entry.second.model.expired(); });
    Entry& entry = entries_[key];
    auto model = entry.model.lock();
    claimed = !model && !entry.loading;
    if (claimed) entry.loading = true;
    return model;
  }

  /// Ends a claim; without a model the next one who asks gets it.
  void release(const std::string& key, const std::shared_ptr<LanguageModel>& model) {
    std::lock_guard lock(mutex_);
    entries_[key] = {model, false};
  }

  /// Objects of all threads that use a model, by key.
  std::map<std::string, long> users() {
    std::lock_guard lock(mutex_);
    std::map<std::string, long> counts;
    for (const auto& [key, entry] : entries_)
      if (const long count = entry.model.use_count()) counts[key] = count;
    return counts;
  }

 private:
  struct Entry {
    std::weak_ptr<LanguageModel> model;
    bool loading = false;
  };

  std::mutex mutex_;
  std::map<std::string, Entry> entries_;
};

// The right and the duty to load a model: given back when the object goes, as it does with its thread.
class ModelClaim : public NativeObject<ModelClaim> {
 public:
  explicit ModelClaim(const Napi::CallbackInfo& info)
      : NativeObject(info), key_(asString(info[0], "key")), held_(true) {}
  ~ModelClaim() override { release(nullptr); }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(
        env, "ModelClaim",
        {instanceMethod<&ModelClaim::publish>("publish"), instanceMethod<&ModelClaim::dispose>("dispose")});
  }

 private:
  // publish(model)
  Napi::Value publish(const Napi::CallbackInfo& info) {
    auto model = DecoderModelObject::get(info[0]);
    if (!model) throwInvalid(info.Env(), "model", "a decoder model that is not disposed", info[0]);
    release(model);
    return info.Env().Undefined();
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    release(nullptr);
    return info.Env().Undefined();
  }

  void release(const std::shared_ptr<LanguageModel>& model) {
    if (held_) SharedModels::instance().release(key_, model);
    held_ = false;
  }

  std::string key_;
  bool held_ = false;
};

// sharedModel(key): NativeDecoderModel | NativeModelClaim | null
Napi::Value sharedModel(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const std::string key = asString(info[0], "key");
  bool claimed = false;
  if (auto model = SharedModels::instance().find(key, claimed)) return DecoderModelObject::wrap(env, model);
  if (!claimed) return env.Null();
  return env.GetInstanceData<AddonData>()->modelClaim.New({info[0]});
}

// sharedModels(): Record<string, number>
Napi::Value sharedModels(const Napi::CallbackInfo& info) {
  auto result = Napi::Object::New(info.Env());
  for (const auto& [key, users] : SharedModels::instance().users()) result.Set(key, double(users));
  return result;
}

}  // namespace

void registerSharedModels(Napi::Env env, Napi::Object exports) {
  env.GetInstanceData<AddonData>()->modelClaim = Napi::Persistent(ModelClaim::define(env));
  exportFunction<sharedModel>(exports, "sharedModel");
  exportFunction<sharedModels>(exports, "sharedModels");
}

}  // namespace slim::addon
