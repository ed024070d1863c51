#include "addon/arguments.h"

namespace slim::addon {

void registerGemm(Napi::Env, Napi::Object) {}

}  // namespace slim::addon
