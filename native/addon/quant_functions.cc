#include "addon/arguments.h"

namespace slim::addon {

void registerQuant(Napi::Env, Napi::Object) {}

}  // namespace slim::addon
