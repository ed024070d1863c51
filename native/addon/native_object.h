// What the addon's functions and classes share: whatever C++ throws on the JavaScript thread becomes a
// SlimError there.
#pragma once
#include <napi.h>

#include <exception>

#include "addon/job.h"

namespace slim::addon {

/// Runs body; an exception other than JavaScript's own is thrown again as the error of its Status.
template <typename Body>
auto guarded(Napi::Env env, const Body& body) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::exception& error) {
    throw toError(env, toStatus(error));
  }
}

/// A function of the addon.
template <Napi::Value (*function)(const Napi::CallbackInfo&)>
void exportFunction(Napi::Object exports, const char* name) {
  const auto call = [](const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return function(info); });
  };
  exports.Set(name, Napi::Function::New(exports.Env(), call, name));
}

/// Native bytes behind a JavaScript object, told to the garbage collector: it would see a few words alone.
class ExternalMemory {
 public:
  explicit ExternalMemory(Napi::Env env) : env_(env) {}
  ~ExternalMemory() { set(0); }
  ExternalMemory(const ExternalMemory&) = delete;
  ExternalMemory& operator=(const ExternalMemory&) = delete;

  void set(size_t bytes) {
    int64_t total;
    napi_adjust_external_memory(env_, int64_t(bytes) - int64_t(bytes_), &total);
    bytes_ = bytes;
  }

 private:
  napi_env env_;
  size_t bytes_ = 0;
};

/// A class of the addon.
template <typename T>
class NativeObject : public Napi::ObjectWrap<T> {
 protected:
  using Wrap = Napi::ObjectWrap<T>;
  using Method = Napi::Value (T::*)(const Napi::CallbackInfo&);

  explicit NativeObject(const Napi::CallbackInfo& info) : Wrap(info) {}

  template <Method method>
  static Napi::ClassPropertyDescriptor<T> instanceMethod(const char* name) {
    return Wrap::InstanceMethod(name, static_cast<Method>(&NativeObject::template call<method>));
  }
  template <Method getter>
  static Napi::ClassPropertyDescriptor<T> instanceGetter(const char* name) {
    return Wrap::InstanceAccessor(name, static_cast<Method>(&NativeObject::template call<getter>), nullptr);
  }

 private:
  template <Method method>
  Napi::Value call(const Napi::CallbackInfo& info) {
    return guarded(info.Env(), [&] { return (static_cast<T*>(this)->*method)(info); });
  }
};

}  // namespace slim::addon
