// The decoder on a device: weights, caches and all values lie there; token ids go up and come down. Decoding
// one token of every sequence is one graph, recorded at the second step of its shape.
#pragma once
#include <memory>
#include <vector>

#include "cuda/device_block.h"
#include "decoder/language_model.h"
#include "decoder/model.h"

namespace slim::cuda {

/// Token ids to states on a device.
class DeviceEmbedding {
 public:
  /// The caller does not hold device.use().
  static Status make(const std::shared_ptr<Device>& device, const Embedding& source, DeviceEmbedding& out);
  Status run(Device& device, DevicePass& pass) const;
  /// The table of a dense one.
  const std::shared_ptr<const DeviceMatrix>& table() const { return table_; }

 private:
  /// A packed table in its canonical layout.
  struct PackedTable {
    DeviceBuffer<uint8_t> codes, groupBits, scales, zeros;
    DeviceBuffer<uint64_t> codeOffsets, zeroOffsets;
    size_t groupSize = 0;
  };
  static Status uploadPacked(Device& device, const PackedMatrix& source,
                             std::shared_ptr<const PackedTable>& out);

  size_t vocab_ = 0, hidden_ = 0, positionOffset_ = 0;
  float scale_ = 1;
  std::shared_ptr<const DeviceMatrix> table_, positions_;
  std::shared_ptr<const PackedTable> packed_;
};

class DeviceModel final : public LanguageModel {
 public:
  size_t vocab() const override { return widths_.vocab; }
  size_t positionLimit() const override { return positionLimit_; }

  /// There is nothing to prepare.
  Status prepare(ThreadPool&, const CancelFlag&) const override { return Status::success(); }
  Status beginPass(const std::vector<int32_t>& ids, std::unique_ptr<LogitsPass>& out, ThreadPool& pool,
                   const CancelFlag& cancelled) const override;
  Status makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<SequenceCache>& out) const override;
  Status step(const std::vector<StepSequence>& sequences, std::vector<std::optional<SampledToken>>& out,
              ThreadPool& pool, const CancelFlag& cancelled) const override;

 private:
  friend class DeviceModelBuilder;
  class States;

  /// The cosines and sines of positions, of one rotary embedding.
  struct Rotary {
    RotarySpec spec;
    DeviceBuffer<float> table;
    size_t positions = 0;
  };
  /// Decode steps of one shape.
  struct Decode {
    DevicePass pass;
    std::unique_ptr<Graph> graph;  // recorded at the second step
    bool warm = false;
    uint64_t lastUse = 0;
  };

  explicit DeviceModel(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  Status growRotaries(size_t positions, ThreadPool& pool) const;
  /// Queues a pass whose input is uploaded: states of all rows, the next tokens of those that have some
  /// drawn.
  Status queue(DevicePass& pass) const;
  Status project(DevicePass& pass, DeviceAddress states, DeviceAddress rowIndices, size_t rows) const;
  Status runPrompt(const PassInput& input) const;
  Status runDecode(const PassInput& input, DevicePass*& pass) const;

  std::shared_ptr<Device> device_;  // outlives all that lies on it
  std::shared_ptr<const CacheLayout> layout_;
  PassWidths widths_;
  size_t positionLimit_ = 0, headsOfTile_ = 1;
  float logitSoftcap_ = 0;
  DeviceEmbedding embedding_;
  std::vector<DeviceBlock> blocks_;
  DeviceNorm finalNorm_;
  DeviceLinear head_;
  std::vector<size_t> rotaryOf_;

  // Of the pass that runs; the device's lock is held.
  mutable std::vector<Rotary> rotaries_;
  mutable DevicePass prompt_;
  mutable std::vector<std::unique_ptr<Decode>> decodes_;
  mutable uint64_t uses_ = 0;
};

/// Makes a model block by block: a block's host memory can go when it is added.
class DeviceModelBuilder {
 public:
  explicit DeviceModelBuilder(std::shared_ptr<Device> device) : model_(new DeviceModel(std::move(device))) {}

  Status addBlock(const DecoderBlock& block, ThreadPool& pool, const CancelFlag& cancelled);
  /// The parts but the blocks. The builder is empty afterwards.
  Status finish(const ModelParts& parts, ThreadPool& pool, const CancelFlag& cancelled,
                std::shared_ptr<LanguageModel>& out);

 private:
  std::shared_ptr<DeviceModel> model_;
  NormSpec norm_;
};

}  // namespace slim::cuda
