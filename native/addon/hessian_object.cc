#include "addon/arguments.h"

namespace slim::addon {

void registerHessian(Napi::Env, Napi::Object) {}

}  // namespace slim::addon
