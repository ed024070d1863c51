#include "addon/arguments.h"
#include "addon/decoder_object.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kCacheTag = {0x0e8b5c7741fd49a3, 0xa61c3d52f0984be7};
constexpr char kIdle[] = "a cache that no step is using", kAwait[] = "Await the step first";

}  // namespace

KvCacheObject::KvCacheObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  if (!info[0].IsExternal())
    throw toError(info.Env(), Status::error("SLIM_INVALID_ARGUMENT", "Caches are made by a model's cache()"));
  cache_ = *info[0].As<Napi::External<std::shared_ptr<SharedCache>>>().Data();
  info.This().As<Napi::Object>().TypeTag(&kCacheTag);
}

Napi::Value KvCacheObject::wrap(Napi::Env env, std::shared_ptr<SharedCache> cache) {
  return env.GetInstanceData<AddonData>()->kvCache.New(
      {Napi::External<std::shared_ptr<SharedCache>>::New(env, &cache)});
}

std::shared_ptr<SharedCache> KvCacheObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kCacheTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->cache_;
}

SharedCache& KvCacheObject::shared(const Napi::CallbackInfo& info) const {
  if (!cache_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The cache is disposed"));
  return *cache_;
}

Napi::Value KvCacheObject::getLength(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cache_ ? double(cache_->cache->length()) : 0);
}

Napi::Value KvCacheObject::getCapacity(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cache_ ? double(cache_->cache->capacity()) : 0);
}

Napi::Value KvCacheObject::getDType(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), cacheDTypeName(shared(info).cache->dtype()));
}

Napi::Value KvCacheObject::getByteLength(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), cache_ ? double(cache_->cache->bytes()) : 0);
}

// truncate(length)
Napi::Value KvCacheObject::truncate(const Napi::CallbackInfo& info) {
  shared(info);
  const BusyHold held = hold(info.Env(), cache_, "cache", kIdle, kAwait);
  throwIfError(info.Env(), cache_->cache->truncate(asSize(info[0], "length")));
  return info.Env().Undefined();
}

// copyPrefix(from, length)
Napi::Value KvCacheObject::copyPrefix(const Napi::CallbackInfo& info) {
  shared(info);
  auto from = get(info[0]);
  if (!from || from->model != cache_->model)
    throwInvalid(info.Env(), "from", "a cache of the same model that is not disposed", info[0]);
  const size_t length = asSize(info[1], "length");
  const BusyHold held = hold(info.Env(), cache_, "cache", kIdle, kAwait);
  BusyHold source;
  if (from != cache_) source = hold(info.Env(), from, "from", kIdle, kAwait);
  throwIfError(info.Env(), cache_->cache->copyPrefix(*from->cache, length));
  return info.Env().Undefined();
}

Napi::Value KvCacheObject::dispose(const Napi::CallbackInfo& info) {
  cache_.reset();
  return info.Env().Undefined();
}

Napi::Function KvCacheObject::define(Napi::Env env) {
  return DefineClass(env, "KvCache",
                     {instanceGetter<&KvCacheObject::getLength>("length"),
                      instanceGetter<&KvCacheObject::getCapacity>("capacity"),
                      instanceGetter<&KvCacheObject::getDType>("dtype"),
                      instanceGetter<&KvCacheObject::getByteLength>("byteLength"),
                      instanceMethod<&KvCacheObject::truncate>("truncate"),
                      instanceMethod<&KvCacheObject::copyPrefix>("copyPrefix"),
                      instanceMethod<&KvCacheObject::dispose>("dispose")});
}

}  // namespace slim::addon
