#include "addon/arguments.h"
#include "addon/cuda_object.h"

namespace slim::addon {
namespace {

TensorPtr asHalves(const Napi::Value& value, const std::string& name) {
  auto tensor = asTensor(value, name);
  if (tensor->dtype() != DType::F16 || tensor->elements() == 0)
    throw toError(value.Env(),
                  Status::invalidArgument(name, "F16 of two dimensions, not empty", describeShape(*tensor)));
  return tensor;
}

std::vector<std::shared_ptr<cuda::PackedLinear>> asMatrices(const Napi::Value& value) {
  const auto env = value.Env();
  if (!value.IsArray() || value.As<Napi::Array>().Length() == 0)
    throwInvalid(env, "matrices", "an array of packed matrices on the device", value);
  const auto array = value.As<Napi::Array>();
  std::vector<std::shared_ptr<cuda::PackedLinear>> matrices;
  for (uint32_t i = 0; i < array.Length(); ++i) {
    const std::string name = "matrices[" + std::to_string(i) + "]";
    auto matrix = CudaPackedObject::get(array.Get(i));
    if (!matrix) throwInvalid(env, name, "a packed matrix on the device, not disposed", array.Get(i));
    if (!matrices.empty() && (matrix->rows() != matrices[0]->rows() || matrix->cols() != matrices[0]->cols()))
      throwInvalid(env, name, "a matrix of the first one's shape", array.Get(i));
    matrices.push_back(std::move(matrix));
  }
  return matrices;
}

}  // namespace

CudaTimedWorkObject::CudaTimedWorkObject(const Napi::CallbackInfo& info) : NativeObject(info) {
  auto device = CudaDeviceObject::get(info[0]);
  if (!device) throwInvalid(info.Env(), "device", "a CUDA device that is not disposed", info[0]);
  work_ = std::make_shared<cuda::TimedWork>(std::move(device));
}

Napi::Function CudaTimedWorkObject::define(Napi::Env env) {
  return DefineClass(env, "CudaTimedWork",
                     {instanceMethod<&CudaTimedWorkObject::recordCopies>("recordCopies"),
                      instanceMethod<&CudaTimedWorkObject::recordPacked>("recordPacked"),
                      instanceMethod<&CudaTimedWorkObject::recordCublas>("recordCublas"),
                      instanceMethod<&CudaTimedWorkObject::turn>("turn"),
                      instanceMethod<&CudaTimedWorkObject::output>("output"),
                      instanceMethod<&CudaTimedWorkObject::dispose>("dispose")});
}

std::shared_ptr<cuda::TimedWork> CudaTimedWorkObject::work(const Napi::CallbackInfo& info) const {
  if (!work_) throw toError(info.Env(), Status::error("SLIM_DISPOSED", "The timed work is disposed"));
  return work_;
}

// recordCopies(bytes, repeats): NativeJob<void>
Napi::Value CudaTimedWorkObject::recordCopies(const Napi::CallbackInfo& info) {
  auto work = this->work(info);
  const size_t bytes = asSize(info[0], "bytes", 1), repeats = asSize(info[1], "repeats", 1);
  return startJob(
      info.Env(), [=](const CancelFlag&) { return work->recordCopies(bytes, repeats); },
      [](Napi::Env e) { return e.Undefined(); });
}

// recordPacked(matrices, x, repeats): NativeJob<void>
Napi::Value CudaTimedWorkObject::recordPacked(const Napi::CallbackInfo& info) {
  auto work = this->work(info);
  auto matrices = asMatrices(info[0]);
  auto x = asHalves(info[1], "x");
  const size_t repeats = asSize(info[2], "repeats", 1), cols = matrices[0]->cols();
  if (x->cols() != cols)
    throw toError(info.Env(), Status::invalidArgument("x", "F16 [tokens, " + std::to_string(cols) + "]",
                                                      describeShape(*x)));
  return startJob(
      info.Env(), [=](const CancelFlag&) { return work->recordPacked(matrices, *x, repeats); },
      [](Napi::Env e) { return e.Undefined(); });
}

// recordCublas(weight, copies, x, repeats, library?): NativeJob<string>
Napi::Value CudaTimedWorkObject::recordCublas(const Napi::CallbackInfo& info) {
  auto work = this->work(info);
  auto weight = asHalves(info[0], "weight"), x = asHalves(info[2], "x");
  const size_t copies = asSize(info[1], "copies", 1), repeats = asSize(info[3], "repeats", 1);
  const std::string library = isMissing(info[4]) ? std::string() : asString(info[4], "library");
  if (x->cols() != weight->cols())
    throw toError(info.Env(),
                  Status::invalidArgument("x", "F16 [tokens, " + std::to_string(weight->cols()) + "]",
                                          describeShape(*x)));
  auto description = std::make_shared<std::string>();
  return startJob(
      info.Env(),
      [=](const CancelFlag&) {
        return work->recordCublas(library, *weight, copies, *x, repeats, *description);
      },
      [=](Napi::Env e) { return Napi::String::New(e, *description); });
}

// turn(): NativeJob<number>
Napi::Value CudaTimedWorkObject::turn(const Napi::CallbackInfo& info) {
  auto work = this->work(info);
  auto seconds = std::make_shared<double>(0);
  return startJob(
      info.Env(), [=](const CancelFlag&) { return work->turn(*seconds); },
      [=](Napi::Env e) { return Napi::Number::New(e, *seconds); });
}

// output(): NativeJob<NativeTensor>
Napi::Value CudaTimedWorkObject::output(const Napi::CallbackInfo& info) {
  auto work = this->work(info);
  auto result = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(), [=](const CancelFlag&) { return work->output(*result); },
      [=](Napi::Env e) { return TensorObject::wrap(e, *result); });
}

Napi::Value CudaTimedWorkObject::dispose(const Napi::CallbackInfo& info) {
  work_.reset();
  return info.Env().Undefined();
}

}  // namespace slim::addon
