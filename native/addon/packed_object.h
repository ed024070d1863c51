// PackedMatrix as a JavaScript object (NativePackedMatrix in lib/native/addon.ts).
#pragma once
#include <napi.h>

#include <memory>
#include <mutex>
#include <vector>

#include "addon/native_object.h"
#include "cpu/interleaved_matrix.h"
#include "quant/packed_matrix.h"

namespace slim::addon {

/// The matrix in the kernels' order, made when it is first asked for and kept. Benchmarks ask for several
/// copies, to find each one cold.
class InterleavedCopies {
 public:
  using Copies = std::vector<std::shared_ptr<const InterleavedMatrix>>;

  /// At least `count` copies.
  Status get(const PackedMatrix& source, size_t count, ThreadPool& pool, const CancelFlag& cancelled,
             Copies& out);

 private:
  std::mutex mutex_;
  Copies copies_;
};

class PackedObject : public NativeObject<PackedObject> {
 public:
  /// From JavaScript's parts, or from an External that wrap() makes.
  explicit PackedObject(const Napi::CallbackInfo& info);
  static Napi::Value wrap(Napi::Env env, std::shared_ptr<PackedMatrix> matrix);
  /// nullptr when the value is not a packed matrix or is disposed.
  static std::shared_ptr<PackedMatrix> get(const Napi::Value& value);
  static std::shared_ptr<InterleavedCopies> copies(const Napi::Value& value);
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
  std::shared_ptr<InterleavedCopies> copies_ = std::make_shared<InterleavedCopies>();
  ExternalMemory memory_;
};

}  // namespace slim::addon
