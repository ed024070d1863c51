// A decoder block over calibration windows on a device: forward, with taps of the inputs of its layers, or in
// stages (decoder/stages.h). The arithmetic is near the CPU's float32: docs/cuda.md says how near.
#pragma once
#include <memory>
#include <mutex>

#include "cuda/device_block.h"
#include "cuda/device_hessian.h"
#include "cuda/device_states.h"
#include "cuda/fisher_sums.h"
#include "decoder/stages.h"

namespace slim::cuda {

/// Hessians of the inputs of a block's parts, by BlockPart; null: not wanted.
struct DeviceTaps {
  std::shared_ptr<DeviceHessian> hessians[std::size(kBlockParts)];
};

/// As StagedPass: [tokens, hidden], [tokens, queryWidth], [tokens, intermediate].
struct DeviceStagedPass {
  std::shared_ptr<DeviceStates> states, attended, inner;
};

class CalibrationBlock;

/// As StageTap.
struct DeviceStageTap {
  std::shared_ptr<DeviceHessian> hessian;
  std::shared_ptr<CalibrationBlock> original;
  DeviceStagedPass originalPass;
};

/// Windows of `length` tokens, several together in a tile of `tileTokens`, or of a longer window one piece
/// after the other.
struct CalibrationWindows {
  size_t length = 0;
  size_t tileTokens = 0;  // 0: as many as the scratch memory has room for
};

class CalibrationBlock {
 public:
  /// The source's layers come to the device when a pass first runs them, and stay.
  static Status make(std::shared_ptr<Device> device, std::shared_ptr<const DecoderBlock> source,
                     std::shared_ptr<CalibrationBlock>& out);

  const std::shared_ptr<Device>& device() const { return device_; }
  const BlockSpec& spec() const { return block_.spec(); }
  size_t intermediateSize() const { return block_.intermediateSize(); }

  /// As DecoderBlock::forward. The caller does not hold device.use(), here and below.
  Status forward(DeviceStates& states, const CalibrationWindows& windows, const DeviceTaps* taps,
                 ThreadPool& pool, const CancelFlag& cancelled);
  /// As DecoderBlock::runStage.
  Status runStage(Stage stage, const DeviceStagedPass& pass, const CalibrationWindows& windows,
                  const DeviceStageTap& tap, ThreadPool& pool, const CancelFlag& cancelled);
  /// As DecoderBlock::backward (calibration_backward.cc): whole windows in a tile, however long. `gradients`
  /// come as ∂L/∂output and leave as ∂L/∂inputs; taps and fisher may be null.
  Status backward(DeviceStates& inputs, DeviceStates& gradients, const CalibrationWindows& windows,
                  const DeviceTaps* taps, DeviceFisherSums* fisher, ThreadPool& pool,
                  const CancelFlag& cancelled);

 private:
  class Workspace;
  struct Tile;
  struct StageInput;

  Status load(std::initializer_list<BlockPart> parts, ThreadPool& pool, const CancelFlag& cancelled);
  Status loadFor(Stage stage, ThreadPool& pool, const CancelFlag& cancelled);
  /// `besideWidth`: floats of a token beside those of a forward pass.
  size_t tileTokens(size_t besideWidth = 0) const;
  /// Calls visit for one tile after the other, under device.use(), and waits for what it has queued.
  using TileVisit = std::function<Status(const Tile&)>;
  Status forEachTile(size_t tokens, const CalibrationWindows& windows, const CancelFlag& cancelled,
                     const TileVisit& visit) const;
  Status runStageTile(Stage stage, const DeviceStagedPass& pass, const Tile& tile, Workspace& workspace,
                      StageInput& out) const;

  std::shared_ptr<Device> device_;  // outlives the block
  std::shared_ptr<const DecoderBlock> source_;
  std::shared_ptr<const CacheLayout> layout_;
  DeviceBlock block_;
  std::mutex loading_;
  bool loaded_[std::size(kBlockParts)] = {};
};

}  // namespace slim::cuda
