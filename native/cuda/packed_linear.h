// A packed matrix on a device, and its products.
#pragma once
#include <memory>
#include <vector>

#include "cuda/device.h"
#include "quant/packed_matrix.h"

namespace slim::cuda {

/// Row-major activations [tokens, stride] on the device.
struct DeviceActivations {
  DeviceAddress address = 0;
  ActivationType type = ActivationType::F16;
  size_t tokens = 0, stride = 0;
};

/// Row-major float32 [tokens, stride] on the device: y = x · Wᵀ (+ bias [rows]) (+ y).
struct DeviceOutput {
  DeviceAddress address = 0;
  size_t stride = 0;
  DeviceAddress bias = 0;
  bool accumulate = false;
};

/// What products need beside their operands. It grows when a product needs more: a graph's owner keeps it,
/// and runs the products once before it records them.
struct ProductScratch {
  DeviceBuffer<float> scales;
  DeviceBuffer<uint8_t> fragments;
  DeviceBuffer<float> sums;
  DeviceBuffer<float> workspace;
  DeviceBuffer<uint8_t> panel;
};

class PackedLinear {
 public:
  /// Packs into the device layout (unit_layout.h) on the pool's threads. The caller does not hold
  /// device.use().
  static Status make(std::shared_ptr<Device> device, const PackedMatrix& source, ThreadPool& pool,
                     const CancelFlag& cancelled, std::shared_ptr<PackedLinear>& out);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t deviceBytes() const;
  const std::shared_ptr<Device>& device() const { return device_; }

  /// A power of two for every token, the same for all matrices that x meets.
  static Status scaleTokens(Device& device, const DeviceActivations& x, size_t cols, ProductScratch& scratch);
  /// Queues the product, after scaleTokens of the same x. The caller holds device.use(). `splits`: parts of K
  /// that CTAs share; 0: as many as fill the device.
  Status multiply(const DeviceActivations& x, const DeviceOutput& y, ProductScratch& scratch,
                  uint32_t splits = 0) const;

 private:
  struct Plan;
  Status packActivations(const DeviceActivations& x, const Plan& plan, ProductScratch& scratch) const;
  bool planFew(PackedProductArguments& arguments, uint32_t splits, Plan& plan) const;
  Plan planMany(PackedProductArguments& arguments, uint32_t splits) const;
  Plan planPanels(PackedProductArguments& arguments, uint32_t splits) const;
  Status multiplyPanels(PackedProductArguments& arguments, const Plan& plan, ProductScratch& scratch) const;
  std::string describe(size_t tokens) const;

  std::shared_ptr<Device> device_;  // outlives the buffers
  size_t rows_ = 0, cols_ = 0;
  uint32_t slotsOfUnit_ = 1, units_ = 0;
  uint64_t tileStride_ = 0;
  float panelScale_ = 1;  // brings the largest weight just under 2^15
  uint32_t runBegin_[kWidths + 1] = {}, runOffset_[kWidths] = {};
  DeviceBuffer<uint8_t> codes_, metadata_;
  DeviceBuffer<Slot> slots_;
  DeviceBuffer<uint32_t> arrivals_;
};

}  // namespace slim::cuda
