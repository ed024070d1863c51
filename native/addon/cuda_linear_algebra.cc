// The linear algebra of quantization on a CUDA device, as its methods for JavaScript.
#include "addon/arguments.h"
#include "addon/cuda_object.h"
#include "cuda/inverse_factor.h"
#include "cuda/multiply.h"
#include "cuda/output_error.h"

namespace slim::addon {
namespace {

struct CaseOperand {
  TensorPtr tensor;
  bool columns = false;

  Status upload(cuda::Device& device, cuda::DeviceBuffer<float>& buffer, cuda::DeviceOperand& out) const {
    SLIM_RETURN_IF_ERROR(device.upload(tensor->as<float>(), tensor->elements(), "an operand", buffer));
    out = {buffer.address(), tensor->cols(), columns};
    return Status::success();
  }
  /// From one matrix of a batch to the next.
  size_t apart(size_t rows, size_t depth) const { return (columns ? depth : rows) * tensor->cols(); }
};

TensorPtr asMatrix(const Napi::Value& value, const std::string& name, size_t rows, size_t cols) {
  auto tensor = asTensor(value, name);
  if (tensor->dtype() != DType::F32 || tensor->rows() < rows || tensor->cols() < cols)
    throw toError(value.Env(), Status::invalidArgument(name,
                                                       std::string("at least F32 [") + std::to_string(rows) +
                                                           ", " + std::to_string(cols) + "]",
                                                       describeShape(*tensor)));
  return tensor;
}

// Of `batch` matrices, one below the other.
CaseOperand asOperand(const Napi::Value& value, const std::string& name, size_t rows, size_t depth,
                      size_t batch) {
  const auto object = asObject(value, name);
  const std::string layout = asString(object.Get("layout"), name + ".layout");
  if (layout != "rows" && layout != "columns")
    throwInvalid(value.Env(), name + ".layout", "rows or columns", object.Get("layout"));
  const bool columns = layout == "columns";
  return {asMatrix(object.Get("tensor"), name + ".tensor", batch * (columns ? depth : rows),
                   columns ? rows : depth),
          columns};
}

}  // namespace

// multiply(c, options): NativeJob<void>
Napi::Value CudaDeviceObject::multiply(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto device = this->device(info);
  const auto options = asObject(info[1], "options");
  const auto size = [&](const char* name) {
    return asSize(options.Get(name), std::string("options.") + name);
  };
  const auto flag = [&](const char* name) {
    const auto value = options.Get(name);
    return !isMissing(value) && asBoolean(value, std::string("options.") + name);
  };
  const size_t m = size("m"), n = size("n"), k = size("k"),
               batch = isMissing(options.Get("batch")) ? 1 : size("batch");
  auto c = asMatrix(info[0], "c", batch * m, n);
  const auto a = asOperand(options.Get("a"), "options.a", m, k, batch),
             b = asOperand(options.Get("b"), "options.b", n, k, batch);
  cuda::MultiplyOptions multiplyOptions;
  multiplyOptions.batch = {batch, a.apart(m, k), b.apart(n, k), m * c->cols()};
  if (!isMissing(options.Get("alpha")))
    multiplyOptions.alpha = float(asNumber(options.Get("alpha"), "options.alpha"));
  multiplyOptions.accumulate = flag("accumulate");
  multiplyOptions.upperOnly = flag("upperOnly");
  return startJob(
      env,
      [=](const CancelFlag&) {
        const auto lock = device->use();
        cuda::DeviceBuffer<float> buffers[2], result;
        cuda::DeviceOperand left, right;
        SLIM_RETURN_IF_ERROR(a.upload(*device, buffers[0], left));
        SLIM_RETURN_IF_ERROR(b.upload(*device, buffers[1], right));
        SLIM_RETURN_IF_ERROR(device->upload(c->as<float>(), c->elements(), "c", result));
        SLIM_RETURN_IF_ERROR(
            cuda::multiply(*device, m, n, k, left, right, result.address(), c->cols(), multiplyOptions));
        return device->copyToHost(c->data(), result.address(), c->bytes());
      },
      [](Napi::Env e) { return e.Undefined(); });
}

// inverseFactor(hessian, damping): NativeJob<{ upper, damping, dead }>
Napi::Value CudaDeviceObject::inverseFactor(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  const size_t size = asTensor(info[0], "hessian")->cols();
  auto h = asMatrix(info[0], "hessian", size, size);
  const std::string name = asString(info[1], "damping");
  if (name != "salience" && name != "gptq")
    throwInvalid(info.Env(), "damping", "\"salience\" or \"gptq\"", info[1]);
  auto factor = std::make_shared<DampedFactor>();
  auto upper = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        const auto lock = device->use();
        cuda::DeviceBuffer<float> hessian;
        SLIM_RETURN_IF_ERROR(device->upload(h->as<float>(), size * size, "a Hessian", hessian));
        cuda::DeviceInverseFactor onDevice;
        SLIM_RETURN_IF_ERROR(cuda::factorInverse(*device, hessian.address(), size, 1,
                                                 name == "gptq" ? Damping::Gptq : Damping::Salience,
                                                 cancelled, onDevice));
        *factor = onDevice;
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {size, size}, *upper));
        return device->copyToHost((*upper)->data(), onDevice.upper.address(), (*upper)->bytes());
      },
      [=](Napi::Env e) {
        auto value = Napi::Object::New(e);
        value.Set("upper", TensorObject::wrap(e, *upper));
        value.Set("damping", factor->damping);
        auto dead = Napi::Uint8Array::New(e, factor->dead.size());
        std::copy(factor->dead.begin(), factor->dead.end(), dead.Data());
        value.Set("dead", dead);
        return value;
      });
}

// relativeOutputError(weight, quantized, hessian): NativeJob<number>
Napi::Value CudaDeviceObject::relativeOutputError(const Napi::CallbackInfo& info) {
  auto device = this->device(info);
  auto w = asTensor(info[0], "weight");
  const size_t rows = w->rows(), cols = w->cols();
  const TensorPtr tensors[] = {asMatrix(info[0], "weight", rows, cols),
                               asMatrix(info[1], "quantized", rows, cols),
                               asMatrix(info[2], "hessian", cols, cols)};
  auto result = std::make_shared<double>();
  return startJob(
      info.Env(),
      [=](const CancelFlag&) {
        const auto lock = device->use();
        cuda::DeviceBuffer<float> buffers[3];
        for (int i = 0; i < 3; ++i)
          SLIM_RETURN_IF_ERROR(
              device->upload(tensors[i]->as<float>(), tensors[i]->elements(), "a matrix", buffers[i]));
        return cuda::relativeOutputError(*device, buffers[0].address(), buffers[1].address(), rows, cols,
                                         buffers[2].address(), *result);
      },
      [=](Napi::Env e) { return Napi::Number::New(e, *result); });
}

}  // namespace slim::addon
