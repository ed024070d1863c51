// What the passes of a calibration block share: the tiles, and the values of one.
#pragma once
#include "cuda/calibration_block.h"

namespace slim::cuda {

/// `length` tokens from position `start` on of `sequences` windows, one after the other, from `firstToken`
/// on.
struct CalibrationBlock::Tile {
  size_t firstToken, sequences, length, start, endingSequences;

  size_t tokens() const { return sequences * length; }
};

/// The values of a pass over tiles, and the windows' keys and values.
class CalibrationBlock::Workspace {
 public:
  Workspace(const CalibrationBlock& block, size_t windowLength)
      : block_(block), windowLength_(windowLength) {}

  /// The angles of all positions of a window. The caller holds device.use(), here and below.
  Status prepareRotary(ThreadPool& pool) {
    const RotarySpec& spec = block_.spec().rotary;
    if (spec.dim == 0) return Status::success();
    RotaryTable table;
    table.fill(spec, 0, windowLength_, pool);
    return block_.device_->upload(table.values().data(), table.values().size(), "rotary embeddings", rotary_);
  }

  /// Makes room for a tile; with `attends`, for its keys and values, too, after those of the windows' earlier
  /// tokens.
  Status begin(const Tile& tile, bool attends) {
    while (caches_.size() < tile.sequences)
      caches_.push_back(std::make_unique<DeviceCache>(block_.device_, block_.layout_, windowLength_));
    PassInput input;
    input.headsOfTile = block_.block_.headsOfTile();
    input.precision = Precision::Float32;
    for (size_t s = 0; s < tile.sequences; ++s) {
      DeviceCache& cache = *caches_[s];
      if (attends) {
        SLIM_RETURN_IF_ERROR(cache.truncate(tile.start));
        SLIM_RETURN_IF_ERROR(cache.reserve(tile.start + tile.length));
        cache.advance(tile.length);
      }
      input.chunks.push_back({&cache, tile.length, tile.start});
    }
    PassWidths widths;
    widths.hidden = block_.spec().hiddenSize;
    block_.block_.widen(widths);
    SLIM_RETURN_IF_ERROR(pass_.reserve(*block_.device_, input.shape(), widths));
    return pass_.upload(*block_.device_, input);
  }

  DevicePass& pass() { return pass_; }
  DeviceBlock::Position position() const { return {rotary_.address(), 0}; }

 private:
  const CalibrationBlock& block_;
  const size_t windowLength_;
  DeviceBuffer<float> rotary_;
  std::vector<std::unique_ptr<DeviceCache>> caches_;
  DevicePass pass_;
};

}  // namespace slim::cuda
