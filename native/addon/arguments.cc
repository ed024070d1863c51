#include "addon/arguments.h"

#include <cmath>

namespace slim::addon {

std::string describe(const Napi::Value& value) {
  if (value.IsNull()) return "null";
  if (value.IsUndefined()) return "undefined";
  if (value.IsNumber() || value.IsBoolean()) return value.ToString().Utf8Value();
  if (value.IsString()) return '"' + value.As<Napi::String>().Utf8Value() + '"';
  if (value.IsFunction()) return "a function";
  return value.IsArray() ? "an array" : "an object";
}

void throwInvalid(Napi::Env env, const std::string& name, const std::string& expected,
                  const Napi::Value& received) {
  throw toError(env, Status::invalidArgument(name, expected, describe(received)));
}

std::string asString(const Napi::Value& value, const std::string& name) {
  if (!value.IsString()) throwInvalid(value.Env(), name, "a string", value);
  return value.As<Napi::String>().Utf8Value();
}

double asNumber(const Napi::Value& value, const std::string& name) {
  if (!value.IsNumber() || !std::isfinite(value.As<Napi::Number>().DoubleValue()))
    throwInvalid(value.Env(), name, "a finite number", value);
  return value.As<Napi::Number>().DoubleValue();
}

bool asBoolean(const Napi::Value& value, const std::string& name) {
  if (!value.IsBoolean()) throwInvalid(value.Env(), name, "true or false", value);
  return value.As<Napi::Boolean>().Value();
}

size_t asSize(const Napi::Value& value, const std::string& name, size_t least) {
  const double number = value.IsNumber() ? value.As<Napi::Number>().DoubleValue() : NAN;
  if (!(number >= double(least)) || number != std::floor(number) || number > 0x1p53)
    throwInvalid(value.Env(), name, "a whole number from " + std::to_string(least) + " up", value);
  return size_t(number);
}

uint64_t asSeed(const Napi::Value& value) {
  const double seed = asNumber(value, "seed");
  constexpr double kMost = 9007199254740991;  // Number.MAX_SAFE_INTEGER
  if (!(std::abs(seed) <= kMost) || seed != std::floor(seed))
    throwInvalid(value.Env(), "seed", "a whole number", value);
  return uint64_t(int64_t(seed));
}

Napi::Object asObject(const Napi::Value& value, const std::string& name) {
  if (!value.IsObject()) throwInvalid(value.Env(), name, "an object", value);
  return value.As<Napi::Object>();
}

TensorPtr asTensor(const Napi::Value& value, const std::string& name) {
  TensorPtr tensor = TensorObject::get(value);
  if (!tensor) throwInvalid(value.Env(), name, "a native tensor that is not disposed", value);
  return tensor;
}

TensorPtr asOptionalTensor(const Napi::Value& value, const std::string& name) {
  return isMissing(value) ? nullptr : asTensor(value, name);
}

std::vector<size_t> asSizes(const Napi::Value& value, const std::string& name) {
  if (!value.IsArray()) throwInvalid(value.Env(), name, "an array of whole numbers", value);
  const auto array = value.As<Napi::Array>();
  std::vector<size_t> sizes(array.Length());
  for (uint32_t i = 0; i < array.Length(); ++i)
    sizes[i] = asSize(array.Get(i), name + "[" + std::to_string(i) + "]");
  return sizes;
}

std::shared_ptr<ThreadPool> asThreads(const Napi::Value& value, const std::string& name) {
  const size_t threads = asSize(value, name, 1);
  if (threads > 1024) throwInvalid(value.Env(), name, "at most 1024 threads", value);
  auto& pool = value.Env().GetInstanceData<AddonData>()->lastPool;
  throwIfError(value.Env(), ThreadPool::shared(int(threads), pool));
  return pool;
}

}  // namespace slim::addon
