// What one step at a time may use.
#pragma once
#include <napi.h>

#include <atomic>
#include <memory>
#include <string>

#include "addon/job.h"

namespace slim::addon {

struct Busy {
  std::atomic<bool> busy{false};
};

/// Frees what it holds when the last copy of it goes.
using BusyHold = std::shared_ptr<void>;

/// Throws where another step has it: `expected` and `remedy` are for that error.
inline BusyHold hold(Napi::Env env, const std::shared_ptr<Busy>& used, const std::string& name,
                     const std::string& expected, const std::string& remedy) {
  if (used->busy.exchange(true))
    throw toError(env, Status::invalidArgument(name, expected, "a busy one", remedy));
  return BusyHold(used.get(), [used](void*) { used->busy = false; });
}

}  // namespace slim::addon
