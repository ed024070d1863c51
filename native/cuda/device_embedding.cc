#include "cuda/device_model.h"

namespace slim::cuda {

Status DeviceEmbedding::make(const std::shared_ptr<Device>& device, const Embedding& source,
                             DeviceEmbedding& out) {
  DeviceEmbedding embedding;
  embedding.vocab_ = source.vocab();
  embedding.hidden_ = source.hidden();
  embedding.positionOffset_ = source.positionOffset;
  embedding.scale_ = source.scale;
  const auto lock = device->use();
  if (source.table.dense)
    SLIM_RETURN_IF_ERROR(uploadMatrix(*device, *source.table.dense, "embedding", embedding.table_));
  else
    SLIM_RETURN_IF_ERROR(uploadPacked(*device, *source.table.packed, embedding.packed_));
  if (source.positions)
    SLIM_RETURN_IF_ERROR(uploadMatrix(*device, *source.positions, "positions", embedding.positions_));
  out = std::move(embedding);
  return Status::success();
}

Status DeviceEmbedding::uploadPacked(Device& device, const PackedMatrix& source,
                                     std::shared_ptr<const PackedTable>& out) {
  auto table = std::make_shared<PackedTable>();
  const std::string about = "embedding";
  const std::pair<const TensorPtr*, DeviceBuffer<uint8_t>*> parts[] = {
      {&source.qweight(), &table->codes},
      {&source.groupBits(), &table->groupBits},
      {&source.scales(), &table->scales},
      {&source.qzeros(), &table->zeros}};
  for (const auto& [from, to] : parts)
    SLIM_RETURN_IF_ERROR(device.upload((*from)->data(), (*from)->bytes(), about, *to));
  const auto uploadOffsets = [&](const std::vector<size_t>& from, DeviceBuffer<uint64_t>& to) {
    const std::vector<uint64_t> offsets(from.begin(), from.end());
    return device.upload(offsets.data(), offsets.size(), about, to);
  };
  SLIM_RETURN_IF_ERROR(uploadOffsets(source.codeOffsets(), table->codeOffsets));
  SLIM_RETURN_IF_ERROR(uploadOffsets(source.zeroOffsets(), table->zeroOffsets));
  table->groupSize = source.groupSize();
  out = std::move(table);
  return Status::success();
}

Status DeviceEmbedding::run(Device& device, DevicePass& pass) const {
  EmbedArguments a{};
  a.table = addressOf<const void>(packed_ ? packed_->codes.address() : table_->values.address());
  a.ids = addressOf<const int32_t>(pass.ids);
  a.positions = addressOf<const int32_t>(pass.positions);
  if (positions_) {
    a.positionTable = addressOf<const void>(positions_->values.address());
    a.positionType = uint32_t(positions_->type);
  }
  a.states = addressOf<float>(pass.states.address());
  a.hidden = uint32_t(hidden_);
  a.tableType = table_ ? uint32_t(table_->type) : 0;
  a.positionOffset = uint32_t(positionOffset_);
  a.scale = scale_;
  const Launch launch{.gridX = unsigned(pass.shape.rows), .threads = 256};
  const std::string about = std::to_string(pass.shape.rows) + " tokens × " + std::to_string(hidden_);
  if (!packed_) return device.launch("embedRows", launch, a, about);
  EmbedPackedArguments p{};
  p.embed = a;
  p.groupBits = addressOf<const uint8_t>(packed_->groupBits.address());
  p.scales = addressOf<const void>(packed_->scales.address());
  p.zeros = addressOf<const uint8_t>(packed_->zeros.address());
  p.codeOffsets = addressOf<const uint64_t>(packed_->codeOffsets.address());
  p.zeroOffsets = addressOf<const uint64_t>(packed_->zeroOffsets.address());
  p.vocab = uint32_t(vocab_);
  p.groupSize = uint32_t(packed_->groupSize);
  return device.launch("embedPackedRows", launch, p, about);
}

}  // namespace slim::cuda
