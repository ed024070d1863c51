// The backward pass of a block over calibration windows on a device, with its values recomputed.
#include <algorithm>

#include "cuda/calibration_workspace.h"

namespace slim::cuda {
namespace {

// Scores of all heads that a product makes at once, and their gradients: few queries would leave
// multiprocessors idle.
constexpr size_t kScoreBytes = size_t(128) << 20;
constexpr size_t kLeastQueries = 64, kMostQueries = 512;

}  // namespace

Status CalibrationBlock::backward(DeviceStates& inputs, DeviceStates& gradients,
                                  const CalibrationWindows& windows, const DeviceTaps* taps,
                                  DeviceFisherSums* fisher, ThreadPool& pool, const CancelFlag& cancelled) {
  SLIM_RETURN_IF_ERROR(
      load({BlockPart::Qkv, BlockPart::O, BlockPart::GateUp, BlockPart::Down}, pool, cancelled));
  const size_t length = std::max<size_t>(windows.length, 1),
               most = windows.tileTokens > 0 ? windows.tileTokens : tileTokens(block_.backwardWidth());
  size_t queries = kScoreBytes / (2 * sizeof(float) * spec().kvHeads * length);
  queries = std::clamp(queries / kLeastQueries * kLeastQueries, kLeastQueries, kMostQueries);
  Workspace workspace(*this, windows.length);
  BackwardValues values;
  {
    const auto lock = device_->use();
    SLIM_RETURN_IF_ERROR(workspace.prepareRotary(pool));
  }
  return forEachTile(
      inputs.tokens(), {windows.length, std::max(most, length)}, cancelled, [&](const Tile& tile) -> Status {
        SLIM_RETURN_IF_ERROR(workspace.begin(tile, true));
        DeviceAddress x, dx;
        SLIM_RETURN_IF_ERROR(inputs.tile(tile.firstToken, tile.tokens(), DeviceStates::Use::Read, x));
        SLIM_RETURN_IF_ERROR(gradients.tile(tile.firstToken, tile.tokens(), DeviceStates::Use::Read, dx));
        SLIM_RETURN_IF_ERROR(block_.backward(
            {*device_, workspace.pass(), values, workspace.position(), tile.sequences, tile.length,
             std::min(queries, most), x, dx,
             [&](BlockPart part, DeviceAddress input, size_t stride) {
               const auto hessian = taps ? taps->hessians[size_t(part)] : nullptr;
               return hessian ? hessian->add(input, tile.tokens(), stride, tile.endingSequences)
                              : Status::success();
             },
             [&](const DeviceTapGradients& found) {
               return fisher ? fisher->add(*device_, found, tile.firstToken) : Status::success();
             }}));
        return gradients.commit();
      });
}

}  // namespace slim::cuda
