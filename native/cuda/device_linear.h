// A linear layer on a device: packed, or dense in its own float type.
#pragma once
#include <memory>
#include <span>

#include "cuda/packed_linear.h"
#include "decoder/linear.h"

namespace slim::cuda {

/// A dense matrix on a device, which a table of embeddings and a head may share.
struct DeviceMatrix {
  DeviceBuffer<uint8_t> values;
  ActivationType type = ActivationType::F32;
};

ActivationType typeOf(DType dtype);
/// `about` names the tensor in errors. The caller holds device.use().
Status uploadMatrix(Device& device, const Tensor& tensor, const std::string& about,
                    std::shared_ptr<const DeviceMatrix>& out);
/// Grows a buffer that is kept from pass to pass.
template <typename T>
Status reserve(Device& device, size_t count, const std::string& about, DeviceBuffer<T>& buffer) {
  if (buffer.count() >= count) return Status::success();
  buffer = {};
  return device.allocate(count, about, buffer);
}

/// Tf32: packed weights as they are, dense ones in their own type; activations of many tokens are rounded to
/// 11 bits; keys and values are float16. Float32: all weights in float32, products near it (multiply.h), as
/// keys and values are.
enum class Precision { Tf32, Float32 };

class DeviceLinear {
 public:
  struct Options {
    Precision precision = Precision::Tf32;
    /// The matrix of a dense weight where it lies on the device already.
    std::shared_ptr<const DeviceMatrix> dense = nullptr;
  };
  /// The caller does not hold device.use().
  static Status make(const std::shared_ptr<Device>& device, const Linear& source, const std::string& about,
                     ThreadPool& pool, const CancelFlag& cancelled, DeviceLinear& out,
                     const Options& options);

  explicit operator bool() const { return packed_ || dense_; }
  size_t rows() const { return rows_; }

  struct Product {
    const DeviceLinear* linear;
    DeviceAddress y;  // float32 [tokens, yStride]
    size_t yStride;
    bool accumulate = false;
  };
  /// Queues the products of several layers with one float32 input. The caller holds device.use().
  static Status multiply(Device& device, const DeviceActivations& x, std::span<const Product> products,
                         ProductScratch& scratch);
  /// Queues inputGradients [tokens, columns] = outputGradients [tokens, rows] · W (+ what is there), row
  /// strides given, near float32: the layer was made at Precision::Float32. The caller holds device.use().
  Status backward(Device& device, DeviceAddress outputGradients, size_t tokens, size_t stride,
                  DeviceAddress inputGradients, size_t inputStride, bool accumulate) const;

 private:
  Status multiplyDense(Device& device, const DeviceActivations& x, const Product& product) const;
  Status multiplyPrecisely(Device& device, const DeviceActivations& x, const Product& product) const;

  size_t rows_ = 0, cols_ = 0;
  Precision precision_ = Precision::Tf32;
  std::shared_ptr<PackedLinear> packed_;
  std::shared_ptr<const DeviceMatrix> dense_;
  DeviceBuffer<float> bias_;
};

}  // namespace slim::cuda
