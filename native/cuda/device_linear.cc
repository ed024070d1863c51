#include "cuda/device_linear.h"

#include <algorithm>

#include "cuda/kernels/decoder_arguments.h"
#include "cuda/multiply.h"

namespace slim::cuda {
namespace {

/// Any weight as float32.
Status widen(const Weight& weight, ThreadPool& pool, const CancelFlag& cancelled, TensorPtr& out) {
  if (weight.dense && weight.dense->dtype() == DType::F32) {
    out = weight.dense;
    return Status::success();
  }
  if (weight.dense) return convert(*weight.dense, DType::F32, pool, cancelled, out);
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {weight.rows, weight.cols}, out));
  pool.parallelFor(weight.rows, [&](size_t row, int) {
    if (!cancelled.load()) weight.read(row, out->as<float>() + row * weight.cols);
  });
  return cancelled.load() ? Status::aborted() : Status::success();
}

}  // namespace

ActivationType typeOf(DType dtype) {
  return dtype == DType::F32   ? ActivationType::F32
         : dtype == DType::F16 ? ActivationType::F16
                               : ActivationType::BF16;
}

Status uploadMatrix(Device& device, const Tensor& tensor, const std::string& about,
                    std::shared_ptr<const DeviceMatrix>& out) {
  auto matrix = std::make_shared<DeviceMatrix>();
  matrix->type = typeOf(tensor.dtype());
  SLIM_RETURN_IF_ERROR(device.upload(tensor.data(), tensor.bytes(), about, matrix->values));
  out = std::move(matrix);
  return Status::success();
}

Status DeviceLinear::make(const std::shared_ptr<Device>& device, const Linear& source,
                          const std::string& about, ThreadPool& pool, const CancelFlag& cancelled,
                          DeviceLinear& out, const Options& options) {
  DeviceLinear linear;
  linear.rows_ = source.weight.rows;
  linear.cols_ = source.weight.cols;
  linear.precision_ = options.precision;
  TensorPtr dense = source.weight.dense;
  if (options.precision == Precision::Float32)
    SLIM_RETURN_IF_ERROR(widen(source.weight, pool, cancelled, dense));
  else if (source.weight.packed)
    SLIM_RETURN_IF_ERROR(PackedLinear::make(device, *source.weight.packed, pool, cancelled, linear.packed_));
  const auto lock = device->use();
  linear.dense_ = options.dense;
  if (dense && !linear.dense_) SLIM_RETURN_IF_ERROR(uploadMatrix(*device, *dense, about, linear.dense_));
  if (!source.bias.empty())
    SLIM_RETURN_IF_ERROR(
        device->upload(source.bias.data(), source.bias.size(), about + " bias", linear.bias_));
  out = std::move(linear);
  return Status::success();
}

Status DeviceLinear::multiply(Device& device, const DeviceActivations& x, std::span<const Product> products,
                              ProductScratch& scratch) {
  bool scaled = false;
  for (const Product& product : products) {
    const DeviceLinear& linear = *product.linear;
    if (linear.precision_ == Precision::Float32) {
      SLIM_RETURN_IF_ERROR(linear.multiplyPrecisely(device, x, product));
      continue;
    }
    if (!linear.packed_) {
      SLIM_RETURN_IF_ERROR(linear.multiplyDense(device, x, product));
      continue;
    }
    if (!scaled) SLIM_RETURN_IF_ERROR(PackedLinear::scaleTokens(device, x, linear.cols_, scratch));
    scaled = true;
    SLIM_RETURN_IF_ERROR(linear.packed_->multiply(
        x, {product.y, product.yStride, linear.bias_.address(), product.accumulate}, scratch));
  }
  return Status::success();
}

Status DeviceLinear::multiplyDense(Device& device, const DeviceActivations& x, const Product& product) const {
  DenseProductArguments a{};
  a.x = addressOf<const float>(x.address);
  a.weight = addressOf<const void>(dense_->values.address());
  a.bias = addressOf<const float>(bias_.address());
  a.y = addressOf<float>(product.y);
  a.xStride = x.stride;
  a.yStride = product.yStride;
  a.rows = uint32_t(rows_);
  a.columns = uint32_t(cols_);
  a.tokens = uint32_t(x.tokens);
  a.accumulate = product.accumulate;
  a.vectors = cols_ % 8 == 0 && x.stride % 4 == 0 && x.address % 16 == 0;
  const std::string type = dense_->type == ActivationType::F32   ? "F32"
                           : dense_->type == ActivationType::F16 ? "F16"
                                                                 : "BF16";
  const std::string shape = std::string("[") + std::to_string(rows_) + ", " + std::to_string(cols_) + "], " +
                            std::to_string(x.tokens) + " tokens";
  const bool many = x.tokens > kFewTokens && a.vectors && dense_->type != ActivationType::F32;
  const size_t tileRows = many ? kManyRows : kFewRows, tileTokens = many ? kManyTokens : kFewTokens;
  return device.launch(((many ? "denseMany" : "denseFew") + type).c_str(),
                       {.gridX = unsigned((rows_ + tileRows - 1) / tileRows),
                        .gridY = unsigned((x.tokens + tileTokens - 1) / tileTokens),
                        .threads = many ? 256u : 128u},
                       a, shape);
}

Status DeviceLinear::multiplyPrecisely(Device& device, const DeviceActivations& x,
                                       const Product& product) const {
  if (bias_.count() > 0) {
    BiasArguments a{};
    a.y = addressOf<float>(product.y);
    a.bias = addressOf<const float>(bias_.address());
    a.stride = product.yStride;
    a.width = uint32_t(rows_);
    a.accumulate = product.accumulate;
    SLIM_RETURN_IF_ERROR(device.launch(
        "biasRows", {.gridX = unsigned(x.tokens), .gridY = unsigned((rows_ + 255) / 256), .threads = 256}, a,
        std::to_string(x.tokens) + " tokens × " + std::to_string(rows_)));
  }
  return cuda::multiply(device, x.tokens, rows_, cols_, DeviceOperand::rowMajor(x.address, x.stride),
                        DeviceOperand::rowMajor(dense_->values.address(), cols_), product.y, product.yStride,
                        {.accumulate = product.accumulate || bias_.count() > 0});
}

Status DeviceLinear::backward(Device& device, DeviceAddress outputGradients, size_t tokens, size_t stride,
                              DeviceAddress inputGradients, size_t inputStride, bool accumulate) const {
  if (precision_ != Precision::Float32)
    return Status::invalidArgument("precision", "a layer of float32 weights for a backward pass",
                                   "weights as models run them", "Make it at Precision::Float32");
  return cuda::multiply(device, tokens, cols_, rows_, DeviceOperand::rowMajor(outputGradients, stride),
                        DeviceOperand::columnMajor(dense_->values.address(), cols_), inputGradients,
                        inputStride, {.accumulate = accumulate});
}

}  // namespace slim::cuda
