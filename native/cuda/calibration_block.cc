#include "cuda/calibration_block.h"

#include <algorithm>

#include "cuda/calibration_workspace.h"

namespace slim::cuda {
namespace {

// A tile's values between the layers stay under this many bytes (SmolLM2-135M: 4096 tokens, LLaMA-7B: 2448):
// few tokens would leave multiprocessors idle, and let every tile read and write all of the Hessians.
constexpr size_t kScratchBytes = size_t(512) << 20;
constexpr size_t kLeastTokens = 512, kMostTokens = 4096;

}  // namespace

Status CalibrationBlock::make(std::shared_ptr<Device> device, std::shared_ptr<const DecoderBlock> source,
                              std::shared_ptr<CalibrationBlock>& out) {
  auto block = std::make_shared<CalibrationBlock>();
  SLIM_RETURN_IF_ERROR(DeviceBlock::begin(*device, *source, "block", Precision::Float32, block->block_));
  auto layout = std::make_shared<CacheLayout>();
  layout->add(source->spec(), sizeof(float));
  block->layout_ = std::move(layout);
  block->device_ = std::move(device);
  block->source_ = std::move(source);
  out = std::move(block);
  return Status::success();
}

Status CalibrationBlock::load(std::initializer_list<BlockPart> parts, ThreadPool& pool,
                              const CancelFlag& cancelled) {
  const std::lock_guard lock(loading_);
  for (const BlockPart part : parts) {
    bool& loaded = loaded_[size_t(part)];
    if (!loaded) SLIM_RETURN_IF_ERROR(block_.load(device_, *source_, part, pool, cancelled));
    loaded = true;
  }
  return Status::success();
}

Status CalibrationBlock::loadFor(Stage stage, ThreadPool& pool, const CancelFlag& cancelled) {
  const bool parallel = spec().residual == Residual::Parallel;
  switch (stage) {
    case Stage::Qkv:
      return Status::success();
    case Stage::O:
      return load({BlockPart::Qkv}, pool, cancelled);
    case Stage::GateUp:
      return parallel ? Status::success() : load({BlockPart::O}, pool, cancelled);
    case Stage::Down:
      return parallel ? load({BlockPart::O, BlockPart::GateUp}, pool, cancelled)
                      : load({BlockPart::GateUp}, pool, cancelled);
    case Stage::End:
      return load({BlockPart::Down}, pool, cancelled);
  }
  return Status::success();
}

size_t CalibrationBlock::tileTokens(size_t besideWidth) const {
  const size_t width =
      4 * spec().hiddenSize + spec().qkvWidth() + spec().queryWidth() + block_.gateUpWidth() + besideWidth;
  return std::clamp(kScratchBytes / (width * sizeof(float)), kLeastTokens, kMostTokens);
}

Status CalibrationBlock::forEachTile(size_t tokens, const CalibrationWindows& windows,
                                     const CancelFlag& cancelled, const TileVisit& visit) const {
  const size_t length = windows.length, most = windows.tileTokens > 0 ? windows.tileTokens : tileTokens();
  if (length == 0 || tokens % length != 0)
    return Status::invalidArgument("sequenceLength", "a divisor of the " + std::to_string(tokens) + " tokens",
                                   std::to_string(length));
  const size_t sequences = tokens / length;
  // Every window has whole pages of keys and values.
  const size_t paged = divideUp(length, kCachePage) * kCachePage;
  const size_t together = std::clamp<size_t>(most / paged, 1, std::max<size_t>(sequences, 1));
  for (size_t first = 0; first < sequences; first += together) {
    Tile tile{};
    tile.sequences = std::min(together, sequences - first);
    for (tile.start = 0; tile.start < length; tile.start += tile.length) {
      if (cancelled.load()) return Status::aborted();
      tile.length = together > 1 ? length : std::min(most, length - tile.start);
      tile.firstToken = first * length + tile.start;
      tile.endingSequences = tile.start + tile.length == length ? tile.sequences : 0;
      const auto lock = device_->use();
      SLIM_RETURN_IF_ERROR(visit(tile));
      SLIM_RETURN_IF_ERROR(device_->synchronize());
    }
  }
  return Status::success();
}

Status CalibrationBlock::forward(DeviceStates& states, const CalibrationWindows& windows,
                                 const DeviceTaps* taps, ThreadPool& pool, const CancelFlag& cancelled) {
  SLIM_RETURN_IF_ERROR(load({BlockPart::Qkv, BlockPart::O, BlockPart::GateUp}, pool, cancelled));
  if (!taps) SLIM_RETURN_IF_ERROR(load({BlockPart::Down}, pool, cancelled));
  Workspace workspace(*this, windows.length);
  const auto runTile = [&](const Tile& tile) -> Status {
    SLIM_RETURN_IF_ERROR(workspace.begin(tile, true));
    DevicePass& pass = workspace.pass();
    DeviceAddress x;
    SLIM_RETURN_IF_ERROR(states.tile(tile.firstToken, tile.tokens(), DeviceStates::Use::Read, x));
    if (!taps) {
      SLIM_RETURN_IF_ERROR(block_.run(*device_, pass, x, workspace.position()));
      return states.commit();
    }
    const DeviceAddress copy = pass.states.address();
    SLIM_RETURN_IF_ERROR(device_->copyOnDevice(copy, x, tile.tokens() * spec().hiddenSize * sizeof(float)));
    return block_.run(*device_, pass, copy, workspace.position(),
                      [&](BlockPart part, DeviceAddress input, size_t stride) {
                        const auto& hessian = taps->hessians[size_t(part)];
                        return hessian ? hessian->add(input, tile.tokens(), stride, tile.endingSequences)
                                       : Status::success();
                      });
  };
  {
    const auto lock = device_->use();
    SLIM_RETURN_IF_ERROR(workspace.prepareRotary(pool));
  }
  return forEachTile(states.tokens(), windows, cancelled, runTile);
}

/// The input of a stage's layers at a tile's tokens.
struct CalibrationBlock::StageInput {
  DeviceAddress x = 0;  // rows `stride` apart
  size_t stride = 0;
  /// What the layer's output is added to; 0 where it is not, or where a norm stands between.
  DeviceAddress states = 0;
};

Status CalibrationBlock::runStage(Stage stage, const DeviceStagedPass& pass,
                                  const CalibrationWindows& windows, const DeviceStageTap& tap,
                                  ThreadPool& pool, const CancelFlag& cancelled) {
  SLIM_RETURN_IF_ERROR(loadFor(stage, pool, cancelled));
  if (tap.original) SLIM_RETURN_IF_ERROR(tap.original->loadFor(stage, pool, cancelled));
  Workspace workspace(*this, windows.length),
      originalWorkspace(tap.original ? *tap.original : *this, windows.length);
  if (stage == Stage::O) {
    const auto lock = device_->use();
    SLIM_RETURN_IF_ERROR(workspace.prepareRotary(pool));
    if (tap.original) SLIM_RETURN_IF_ERROR(originalWorkspace.prepareRotary(pool));
  }
  return forEachTile(pass.states->tokens(), windows, cancelled, [&](const Tile& tile) -> Status {
    StageInput original, input;
    if (tap.original)
      SLIM_RETURN_IF_ERROR(
          tap.original->runStageTile(stage, tap.originalPass, tile, originalWorkspace, original));
    SLIM_RETURN_IF_ERROR(runStageTile(stage, pass, tile, workspace, input));
    if (stage == Stage::End || !tap.hessian) return Status::success();
    DeviceOriginalInputs drift{.x = original.x};
    if (original.states) {
      drift.states = original.states;
      drift.quantizedStates = input.states;
      drift.stateSize = spec().hiddenSize;
    }
    return tap.hessian->add(input.x, tile.tokens(), input.stride, tile.endingSequences, drift);
  });
}

// x ← x + attention(norm x), then x ← x + mlp(norm' x); in parallel: x ← x + attention(norm x) + mlp(norm'
// x).
Status CalibrationBlock::runStageTile(Stage stage, const DeviceStagedPass& pass, const Tile& tile,
                                      Workspace& workspace, StageInput& out) const {
  using Use = DeviceStates::Use;
  const size_t hidden = spec().hiddenSize, intermediate = block_.intermediateSize();
  const bool parallel = spec().residual == Residual::Parallel;
  SLIM_RETURN_IF_ERROR(workspace.begin(tile, stage == Stage::O));
  DevicePass& values = workspace.pass();
  DeviceAddress states, attended, inner;
  const auto bring = [&](DeviceStates& from, Use use, DeviceAddress& to) {
    return from.tile(tile.firstToken, tile.tokens(), use, to);
  };
  const auto addAttention = [&]() -> Status {
    SLIM_RETURN_IF_ERROR(bring(*pass.attended, Use::Read, attended));
    SLIM_RETURN_IF_ERROR(block_.addAttention(*device_, values, attended, states));
    return pass.states->commit();
  };
  SLIM_RETURN_IF_ERROR(bring(*pass.states, Use::Read, states));
  switch (stage) {
    case Stage::Qkv:
      SLIM_RETURN_IF_ERROR(block_.normInput(*device_, values, states));
      out = {values.normed.address(), hidden};
      return Status::success();
    case Stage::O:
      SLIM_RETURN_IF_ERROR(block_.normInput(*device_, values, states));
      SLIM_RETURN_IF_ERROR(bring(*pass.attended, Use::Overwrite, attended));
      SLIM_RETURN_IF_ERROR(block_.attend(*device_, values, workspace.position(), attended));
      out = {attended, spec().queryWidth(), block_.addsAttention() ? states : 0};
      return pass.attended->commit();
    case Stage::GateUp:
      if (!parallel) SLIM_RETURN_IF_ERROR(addAttention());
      SLIM_RETURN_IF_ERROR(block_.normForMlp(*device_, values, states));
      out = {values.mlpNormed.address(), hidden};
      return Status::success();
    case Stage::Down:
      SLIM_RETURN_IF_ERROR(block_.normForMlp(*device_, values, states));
      SLIM_RETURN_IF_ERROR(bring(*pass.inner, Use::Overwrite, inner));
      SLIM_RETURN_IF_ERROR(block_.activate(*device_, values, inner, intermediate));
      SLIM_RETURN_IF_ERROR(pass.inner->commit());
      out = {inner, intermediate, block_.addsMlp() ? states : 0};
      return parallel ? addAttention() : Status::success();
    case Stage::End:
      SLIM_RETURN_IF_ERROR(bring(*pass.inner, Use::Read, inner));
      SLIM_RETURN_IF_ERROR(block_.addMlp(*device_, values, inner, intermediate, states));
      return pass.states->commit();
  }
  return Status::success();
}

}  // namespace slim::cuda
