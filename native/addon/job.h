// One native step on a libuv worker thread: a promise and a cancel function for JavaScript.
#pragma once
#include <napi.h>

#include <functional>

#include "core/status.h"

namespace slim::addon {

/// Runs off the JavaScript thread; must not touch N-API. Whatever it uses is captured by shared_ptr.
using Work = std::function<Status(const CancelFlag& cancelled)>;
/// Makes the promise's value, back on the JavaScript thread, after success.
using Finish = std::function<Napi::Value(Napi::Env)>;

/// Returns { promise, cancel() } (NativeJob in lib/native/addon.ts).
Napi::Value startJob(Napi::Env env, Work work, Finish finish);

/// The JavaScript error of a Status: its fields become properties.
Napi::Error toError(Napi::Env env, const Status& status);

/// Throws the JavaScript error when the status is not ok.
void throwIfError(Napi::Env env, const Status& status);

}  // namespace slim::addon
