#include "addon/arguments.h"

namespace slim::addon {

void registerPacked(Napi::Env, Napi::Object) {}

}  // namespace slim::addon
