#include "addon/packed_object.h"

#include <algorithm>

#include "addon/arguments.h"
#include "cpu/packed_gemm.h"

namespace slim::addon {
namespace {

constexpr napi_type_tag kPackedTag = {0x37c95e8812fa4d06, 0x90be6d41a7c3582f};

Status multiplyInt8(const Tensor& x, const InterleavedMatrix& matrix, ThreadPool& pool,
                    const CancelFlag& cancelled, Tensor& y) {
  constexpr size_t kSlice = 1024;  // rows, between which it can be cancelled
  TensorPtr floats;
  if (x.dtype() != DType::F32) SLIM_RETURN_IF_ERROR(convert(x, DType::F32, pool, cancelled, floats));
  const float* inputs = (floats ? *floats : x).as<float>();
  PackedActivations activations;
  for (size_t row = 0; row < x.rows(); row += kSlice) {
    if (cancelled.load()) return Status::aborted();
    const PackedProduct product{&matrix, y.as<float>() + row * matrix.rows(), matrix.rows()};
    multiplyPacked(pool, std::min(kSlice, x.rows() - row), inputs + row * x.cols(), x.cols(), {&product, 1},
                   activations);
  }
  return Status::success();
}

}  // namespace

Status InterleavedCopies::get(const PackedMatrix& source, size_t count, ThreadPool& pool,
                              const CancelFlag& cancelled, Copies& out) {
  std::lock_guard lock(mutex_);
  while (copies_.size() < count) {
    std::shared_ptr<const InterleavedMatrix> copy;
    SLIM_RETURN_IF_ERROR(InterleavedMatrix::make(source, pool, cancelled, copy));
    copies_.push_back(std::move(copy));
  }
  out = copies_;
  return Status::success();
}

PackedObject::PackedObject(const Napi::CallbackInfo& info) : NativeObject(info), memory_(info.Env()) {
  if (info[0].IsExternal()) {
    matrix_ = *info[0].As<Napi::External<std::shared_ptr<PackedMatrix>>>().Data();
  } else {
    guarded(info.Env(), [&] {
      const auto parts = asObject(info[0], "parts");
      const auto size = [&](const char* name) {
        return asSize(parts.Get(name), std::string("parts.") + name, 1);
      };
      const auto tensor = [&](const char* name) {
        return asTensor(parts.Get(name), std::string("parts.") + name);
      };
      throwIfError(info.Env(),
                   PackedMatrix::fromParts(size("rows"), size("cols"), size("groupSize"), tensor("qweight"),
                                           tensor("groupBits"), tensor("scales"), tensor("qzeros"), matrix_));
    });
  }
  memory_.set(matrix_->heapBytes());
  info.This().As<Napi::Object>().TypeTag(&kPackedTag);
}

Napi::Value PackedObject::wrap(Napi::Env env, std::shared_ptr<PackedMatrix> matrix) {
  using External = Napi::External<std::shared_ptr<PackedMatrix>>;
  return env.GetInstanceData<AddonData>()->packedMatrix.New({External::New(env, &matrix)});
}

std::shared_ptr<PackedMatrix> PackedObject::get(const Napi::Value& value) {
  if (!value.IsObject() || !value.As<Napi::Object>().CheckTypeTag(&kPackedTag)) return nullptr;
  return Unwrap(value.As<Napi::Object>())->matrix_;
}

std::shared_ptr<InterleavedCopies> PackedObject::copies(const Napi::Value& value) {
  return get(value) ? Unwrap(value.As<Napi::Object>())->copies_ : nullptr;
}

Napi::Function PackedObject::define(Napi::Env env) {
  return DefineClass(
      env, "PackedMatrix",
      {instanceGetter<&PackedObject::getRows>("rows"), instanceGetter<&PackedObject::getCols>("cols"),
       instanceGetter<&PackedObject::getGroupSize>("groupSize"),
       instanceGetter<&PackedObject::getStoredBytes>("storedBytes"),
       instanceMethod<&PackedObject::qweight>("qweight"),
       instanceMethod<&PackedObject::groupBits>("groupBits"), instanceMethod<&PackedObject::scales>("scales"),
       instanceMethod<&PackedObject::qzeros>("qzeros"),
       instanceMethod<&PackedObject::dequantize>("dequantize"),
       instanceMethod<&PackedObject::matmul>("matmul"), instanceMethod<&PackedObject::dispose>("dispose")});
}

std::shared_ptr<PackedMatrix> PackedObject::matrix(const Napi::CallbackInfo& info) const {
  if (!matrix_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The packed matrix is disposed"));
  return matrix_;
}

Napi::Value PackedObject::getRows(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(matrix(info)->rows()));
}
Napi::Value PackedObject::getCols(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(matrix(info)->cols()));
}
Napi::Value PackedObject::getGroupSize(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(matrix(info)->groupSize()));
}
Napi::Value PackedObject::getStoredBytes(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), double(matrix(info)->storedBytes()));
}
Napi::Value PackedObject::qweight(const Napi::CallbackInfo& info) {
  return TensorObject::wrap(info.Env(), matrix(info)->qweight());
}
Napi::Value PackedObject::groupBits(const Napi::CallbackInfo& info) {
  return TensorObject::wrap(info.Env(), matrix(info)->groupBits());
}
Napi::Value PackedObject::scales(const Napi::CallbackInfo& info) {
  return TensorObject::wrap(info.Env(), matrix(info)->scales());
}
Napi::Value PackedObject::qzeros(const Napi::CallbackInfo& info) {
  return TensorObject::wrap(info.Env(), matrix(info)->qzeros());
}

Napi::Value PackedObject::dequantize(const Napi::CallbackInfo& info) {
  auto matrix = this->matrix(info);
  auto pool = asThreads(info[0]);
  auto result = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(),
      [=](const CancelFlag&) {
        const size_t cols = matrix->cols();
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {matrix->rows(), cols}, *result));
        pool->parallelFor(matrix->rows(), [&](size_t r, int) {
          matrix->read(r, 0, cols, (*result)->as<float>() + r * cols);
        });
        return Status::success();
      },
      [=](Napi::Env e) { return TensorObject::wrap(e, *result); });
}

Napi::Value PackedObject::matmul(const Napi::CallbackInfo& info) {
  auto matrix = this->matrix(info);
  auto x = asTensor(info[0], "x");
  auto pool = asThreads(info[1]);
  if (!isFloat(x->dtype()) || x->cols() != matrix->cols())
    throw toError(info.Env(), Status::invalidArgument(
                                  "x", "F32, F16 or BF16 [tokens, " + std::to_string(matrix->cols()) + "]",
                                  describeShape(*x)));
  const std::string activations =
      isMissing(info[2]) ? std::string("float32") : asString(info[2], "activations");
  if (activations != "int8" && activations != "float32")
    throwInvalid(info.Env(), "activations", "int8 or float32", info[2]);
  const auto copies = activations == "int8" ? copies_ : nullptr;
  auto result = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {x->rows(), matrix->rows()}, *result));
        if (!copies) return multiply(*x, Operand::rows(*matrix), matrix->rows(), *pool, cancelled, **result);
        InterleavedCopies::Copies interleaved;
        SLIM_RETURN_IF_ERROR(copies->get(*matrix, 1, *pool, cancelled, interleaved));
        return multiplyInt8(*x, *interleaved[0], *pool, cancelled, **result);
      },
      [=](Napi::Env e) { return TensorObject::wrap(e, *result); });
}

Napi::Value PackedObject::dispose(const Napi::CallbackInfo& info) {
  matrix_.reset();
  copies_ = std::make_shared<InterleavedCopies>();
  memory_.set(0);
  return info.Env().Undefined();
}

void registerPacked(Napi::Env env, Napi::Object exports) {
  const auto constructor = PackedObject::define(env);
  env.GetInstanceData<AddonData>()->packedMatrix = Napi::Persistent(constructor);
  exports.Set("PackedMatrix", constructor);
}

}  // namespace slim::addon
