#include "addon/arguments.h"

namespace slim::addon {

void registerDecoder(Napi::Env, Napi::Object) {}

}  // namespace slim::addon
