// PackedMatrix as a JavaScript object (NativePackedMatrix in lib/native/addon.ts).
#pragma once
#include <napi.h>

#include <memory>

#include "addon/native_object.h"
#include "quant/packed_matrix.h"

namespace slim::addon {

class PackedObject : public NativeObject<PackedObject> {
 public:
  /// From JavaScript's parts, or from an External that wrap() makes.
  explicit PackedObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<PackedMatrix> matrix);
  /// nullptr when the value is not a packed matrix or is disposed.
  static std::shared_ptr<PackedMatrix> get(const Napi::Value& value);
  static Napi::Function define(Napi::Env env);

 private:
  Napi::Value getRows(const Napi::CallbackInfo& info);
  Napi::Value getCols(const Napi::CallbackInfo& info);
  Napi::Value getGroupSize(const Napi::CallbackInfo& info);
  Napi::Value getStoredBytes(const Napi::CallbackInfo& info);
  Napi::Value qweight(const Napi::CallbackInfo& info);
  Napi::Value groupBits(const Napi::CallbackInfo& info);
  Napi::Value scales(const Napi::CallbackInfo& info);
  Napi::Value qzeros(const Napi::CallbackInfo& info);
  Napi::Value dequantize(const Napi::CallbackInfo& info);
  Napi::Value matmul(const Napi::CallbackInfo& info);
  Napi::Value dispose(const Napi::CallbackInfo& info);
  std::shared_ptr<PackedMatrix> matrix(const Napi::CallbackInfo& info) const;

  std::shared_ptr<PackedMatrix> matrix_;
  ExternalMemory memory_;
};

}  // namespace slim::addon
