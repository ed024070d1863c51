// One native step on a libuv worker thread: a promise and a cancel function for JavaScript.
#pragma once
#include <napi.h>

#include <exception>
#include <functional>

#include "core/status.h"

namespace slim::addon {

/// Runs off the JavaScript thread; must not touch N-API. Whatever it uses is captured by shared_ptr.
using Work = std::function<Status(const CancelFlag& cancelled)>;
/// Makes the promise's value, back on the JavaScript thread, after success.
using Finish = std::function<Napi::Value(Napi::Env)>;

/// Returns { promise, cancel() } (NativeJob in lib/native/addon.ts).
Napi::Value startJob(Napi::Env env, Work work, Finish finish);

/// The error of an exception that a job or a call ended with.
Status toStatus(const std::exception& error);

/// The SlimError of a Status, made by the function that setErrorFactory was given (a plain error before
/// that).
Napi::Error toError(Napi::Env env, const Status& status);

/// Throws the JavaScript error when the status is not ok.
void throwIfError(Napi::Env env, const Status& status);

}  // namespace slim::addon
