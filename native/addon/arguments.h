// Reading JavaScript arguments by name; a wrong one throws "Expected X for name but received Y".
#pragma once
#include <napi.h>

#include <cstdint>
#include <string>
#include <vector>

#include "addon/job.h"
#include "addon/native_object.h"
#include "addon/tensor_object.h"
#include "core/thread_pool.h"

namespace slim::addon {

[[noreturn]] void throwInvalid(Napi::Env env, const std::string& name, const std::string& expected,
                               const Napi::Value& received);

std::string describe(const Napi::Value& value);

std::string asString(const Napi::Value& value, const std::string& name);
double asNumber(const Napi::Value& value, const std::string& name);
bool asBoolean(const Napi::Value& value, const std::string& name);
/// A whole number from `least` up.
size_t asSize(const Napi::Value& value, const std::string& name, size_t least = 0);
/// A whole number of either sign, as SplitMix64 takes it in lib/random.ts.
uint64_t asSeed(const Napi::Value& value);
Napi::Object asObject(const Napi::Value& value, const std::string& name);
TensorPtr asTensor(const Napi::Value& value, const std::string& name);
/// undefined and null give nullptr.
TensorPtr asOptionalTensor(const Napi::Value& value, const std::string& name);
std::vector<size_t> asSizes(const Napi::Value& value, const std::string& name);
/// The pool of `threads` (1 … 1024) threads.
std::shared_ptr<ThreadPool> asThreads(const Napi::Value& value, const std::string& name = "threads");

inline bool isMissing(const Napi::Value& value) { return value.IsUndefined() || value.IsNull(); }

}  // namespace slim::addon
