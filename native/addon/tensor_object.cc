#include "addon/tensor_object.h"

#include <cstring>

#include "addon/arguments.h"
#include "addon/job.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kTensorTag = {0x5f1a7d1c93b84e02, 0x8c0d6a52f7e94b11};

class MappedFileObject : public NativeObject<MappedFileObject> {
 public:
  explicit MappedFileObject(const Napi::CallbackInfo& info) : NativeObject(info) {
    guarded(info.Env(),
            [&] { throwIfError(info.Env(), MappedFile::open(asString(info[0], "path"), file_)); });
  }

  static Napi::Function define(Napi::Env env) {
    return DefineClass(env, "MappedFile",
                       {instanceGetter<&MappedFileObject::getByteLength>("byteLength"),
                        instanceMethod<&MappedFileObject::tensor>("tensor"),
                        instanceMethod<&MappedFileObject::dispose>("dispose")});
  }

 private:
  Napi::Value getByteLength(const Napi::CallbackInfo& info) {
    return Napi::Number::New(info.Env(), file_ ? double(file_->size()) : 0);
  }

  // tensor(dtype, shape, byteOffset): a view, checked against the file's size.
  Napi::Value tensor(const Napi::CallbackInfo& info) {
    const auto env = info.Env();
    if (!file_) throw toError(env, Status::error("SLIM_DISPOSED", "The mapped file is disposed"));
    const auto dtype = dtypeFromName(asString(info[0], "dtype"));
    if (!dtype) throwInvalid(env, "dtype", "one of " + dtypeNames(), info[0]);
    auto shape = asSizes(info[1], "shape");
    const size_t offset = asSize(info[2], "byteOffset");
    size_t bytes;
    throwIfError(env, shapeBytes(*dtype, shape, bytes));
    if (offset > file_->size() || bytes > file_->size() - offset)
      throw toError(env, Status::error("SLIM_FILE_TRUNCATED",
                                       file_->path() + " has " + std::to_string(file_->size()) +
                                           " bytes; the tensor needs bytes " + std::to_string(offset) +
                                           " to " + std::to_string(offset + bytes)));
    return TensorObject::wrap(
        env, Tensor::view(*dtype, std::move(shape), const_cast<uint8_t*>(file_->data()) + offset, file_));
  }

  Napi::Value dispose(const Napi::CallbackInfo& info) {
    file_.reset();
    return info.Env().Undefined();
  }

  std::shared_ptr<MappedFile> file_;
};

// tensorFrom(typedArray, dtype, shape): a copy.
Napi::Value tensorFrom(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  if (!info[0].IsTypedArray()) throwInvalid(env, "array", "a typed array", info[0]);
  const auto array = info[0].As<Napi::TypedArray>();
  const auto dtype = dtypeFromName(asString(info[1], "dtype"));
  if (!dtype) throwInvalid(env, "dtype", "a known dtype", info[1]);
  TensorPtr tensor;
  throwIfError(env, Tensor::allocate(*dtype, asSizes(info[2], "shape"), tensor));
  if (tensor->bytes() != array.ByteLength())
    throw toError(
        env, Status::invalidArgument("array", std::to_string(tensor->bytes()) + " bytes (by shape and dtype)",
                                     std::to_string(array.ByteLength()) + " bytes"));
  std::memcpy(tensor->data(), static_cast<uint8_t*>(array.ArrayBuffer().Data()) + array.ByteOffset(),
              tensor->bytes());
  return TensorObject::wrap(env, tensor);
}

// allocateTensor(dtype, shape, spillDirectory?): zero-filled.
Napi::Value allocateTensor(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const auto dtype = dtypeFromName(asString(info[0], "dtype"));
  if (!dtype) throwInvalid(env, "dtype", "a known dtype", info[0]);
  TensorPtr tensor;
  throwIfError(env, Tensor::allocate(*dtype, asSizes(info[1], "shape"), tensor,
                                     isMissing(info[2]) ? "" : asString(info[2], "spillDirectory")));
  return TensorObject::wrap(env, tensor);
}

// convertTensor(tensor, dtype, threads, spillDirectory?): NativeJob<NativeTensor>
Napi::Value convertTensor(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto source = asTensor(info[0], "tensor");
  const auto dtype = dtypeFromName(asString(info[1], "dtype"));
  if (!dtype) throwInvalid(env, "dtype", "F32, F16 or BF16", info[1]);
  auto pool = asThreads(info[2]);
  const std::string spillDirectory = isMissing(info[3]) ? "" : asString(info[3], "spillDirectory");
  auto result = std::make_shared<TensorPtr>();
  return startJob(
      env,
      [=, dtype = *dtype](const CancelFlag& cancelled) {
        return convert(*source, dtype, *pool, cancelled, *result, spillDirectory);
      },
      [=](Napi::Env e) { return TensorObject::wrap(e, *result); });
}

// unpermuteRotaryRows(tensor, heads, threads): NativeJob<NativeTensor>
Napi::Value unpermute(const Napi::CallbackInfo& info) {
  auto source = asTensor(info[0], "tensor");
  const size_t heads = asSize(info[1], "heads", 1);
  auto pool = asThreads(info[2]);
  auto result = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(), [=](const CancelFlag&) { return unpermuteRotaryRows(*source, heads, *pool, *result); },
      [=](Napi::Env e) { return TensorObject::wrap(e, *result); });
}

// findNonFinite(tensor, threads): NativeJob<number>, -1 when all values are finite.
Napi::Value findNonFiniteValue(const Napi::CallbackInfo& info) {
  auto tensor = asTensor(info[0], "tensor");
  auto pool = asThreads(info[1]);
  auto index = std::make_shared<size_t>(0);
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) { return findNonFinite(*tensor, *pool, cancelled, *index); },
      [=](Napi::Env e) {
        return Napi::Number::New(e, *index == tensor->elements() ? -1.0 : double(*index));
      });
}

}  // namespace

TensorObject::TensorObject(const Napi::CallbackInfo& info) : NativeObject(info), memory_(info.Env()) {
  if (!info[0].IsExternal())
    throw toError(info.Env(),
                  Status::error("SLIM_INVALID_ARGUMENT", "Tensors are made by tensorFrom or MappedFile"));
  tensor_ = *info[0].As<Napi::External<TensorPtr>>().Data();
  memory_.set(tensor_->heapBytes());
  info.This().As<Napi::Object>().TypeTag(&kTensorTag);
}

Napi::Value TensorObject::wrap(Napi::Env env, TensorPtr tensor) {
  return env.GetInstanceData<AddonData>()->tensor.New({Napi::External<TensorPtr>::New(env, &tensor)});
}

TensorPtr TensorObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kTensorTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->tensor_;
}

Tensor& TensorObject::tensor(const Napi::CallbackInfo& info) const {
  if (!tensor_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The tensor is disposed"));
  return *tensor_;
}

Napi::Value TensorObject::getDType(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), std::string(dtypeName(tensor(info).dtype())));
}

Napi::Value TensorObject::getShape(const Napi::CallbackInfo& info) {
  const auto& shape = tensor(info).shape();
  auto array = Napi::Array::New(info.Env(), shape.size());
  for (uint32_t i = 0; i < shape.size(); ++i) array.Set(i, double(shape[i]));
  return array;
}

Napi::Value TensorObject::getByteLength(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(tensor(info).bytes()));
}

Napi::Value TensorObject::toFloat32Array(const Napi::CallbackInfo& info) {
  const Tensor& t = tensor(info);
  auto array = Napi::Float32Array::New(info.Env(), t.elements());
  for (size_t r = 0; r < t.rows(); ++r)
    readRow(t.dtype(), t.row(r), 0, t.cols(), array.Data() + r * t.cols());
  return array;
}

Napi::Value TensorObject::toBytes(const Napi::CallbackInfo& info) {
  const Tensor& t = tensor(info);
  auto array = Napi::Uint8Array::New(info.Env(), t.bytes());
  std::memcpy(array.Data(), t.data(), t.bytes());
  return array;
}

Napi::Value TensorObject::dispose(const Napi::CallbackInfo& info) {
  tensor_.reset();
  memory_.set(0);
  return info.Env().Undefined();
}

void TensorObject::registerAll(Napi::Env env, Napi::Object exports) {
  auto* data = env.GetInstanceData<AddonData>();
  data->tensor = Napi::Persistent(DefineClass(
      env, "Tensor",
      {instanceGetter<&TensorObject::getDType>("dtype"), instanceGetter<&TensorObject::getShape>("shape"),
       instanceGetter<&TensorObject::getByteLength>("byteLength"),
       instanceMethod<&TensorObject::toFloat32Array>("toFloat32Array"),
       instanceMethod<&TensorObject::toBytes>("toBytes"),
       instanceMethod<&TensorObject::dispose>("dispose")}));
  exports.Set("MappedFile", MappedFileObject::define(env));
  exportFunction<tensorFrom>(exports, "tensorFrom");
  exportFunction<allocateTensor>(exports, "allocateTensor");
  exportFunction<convertTensor>(exports, "convertTensor");
  exportFunction<unpermute>(exports, "unpermuteRotaryRows");
  exportFunction<findNonFiniteValue>(exports, "findNonFinite");
}

}  // namespace slim::addon
