// A decoder block on a device.
#pragma once
#include <memory>

#include "cuda/device_pass.h"
#include "decoder/block.h"

namespace slim::cuda {

class DeviceBlock {
 public:
  /// What the kernels do not do is refused. `index` names the block in errors. The caller does not hold
  /// device.use().
  static Status make(const std::shared_ptr<Device>& device, const DecoderBlock& source, size_t index,
                     ThreadPool& pool, const CancelFlag& cancelled, DeviceBlock& out);

  const BlockSpec& spec() const { return spec_; }
  /// Heads that share a tile of the attention.
  size_t headsOfTile() const;
  /// Widths that a pass needs for this block, taken into `widths`.
  void widen(PassWidths& widths) const;

  /// Queues the block on the states of a pass; `rotary` is its table, `blockOffset` its place in the cache's
  /// pages. The caller holds device.use().
  Status run(Device& device, DevicePass& pass, DeviceAddress rotary, size_t blockOffset) const;

 private:
  size_t gateUpWidth() const { return spec_.mlp == Mlp::Plain ? intermediate_ : 2 * intermediate_; }
  Status runAttention(Device& device, DevicePass& pass, DeviceAddress rotary, size_t blockOffset) const;
  Status prepareHeads(Device& device, DevicePass& pass, DeviceAddress rotary, size_t blockOffset) const;
  Status attend(Device& device, DevicePass& pass, size_t blockOffset) const;
  Status runMlp(Device& device, DevicePass& pass, DeviceAddress input) const;
  /// states += norm(linear x)
  Status addOutput(Device& device, DevicePass& pass, const DeviceLinear& linear, const DeviceNorm& norm,
                   const DeviceActivations& x) const;

  BlockSpec spec_;
  size_t intermediate_ = 0;
  DeviceLinear q_, k_, v_, qkv_, o_, gate_, up_, gateUp_, down_;
  DeviceNorm input_, postAttention_, preMlp_, postMlp_, query_, key_;
};

}  // namespace slim::cuda
