#include "cuda/packed_linear.h"

#include <algorithm>

#include "cuda/kernels/gemm_shape.h"
#include "cuda/unit_packing.h"

namespace slim::cuda {
namespace {

constexpr uint32_t kMostFewTokens = 8;
constexpr size_t kGemvSharedBytes = 32 * 1024;  // three CTAs an SM on every architecture
constexpr uint32_t kGemvWarps = 8;

/// Tokens that a tile of activations has room for.
uint32_t tokensOfTile(size_t tokens) { return tokens == 1 ? 1 : tokens <= 4 ? 4 : 8; }

size_t divideUp(size_t a, size_t b) { return (a + b - 1) / b; }

template <typename T>
Status atLeast(Device& device, size_t count, const char* about, DeviceBuffer<T>& buffer) {
  if (buffer.count() >= count) return Status::success();
  buffer = DeviceBuffer<T>();
  return device.allocate(count, about, buffer);
}

}  // namespace

Status PackedLinear::make(std::shared_ptr<Device> device, const PackedMatrix& source, ThreadPool& pool,
                          const CancelFlag& cancelled, std::shared_ptr<PackedLinear>& out) {
  auto linear = std::make_shared<PackedLinear>();
  linear->device_ = device;
  linear->rows_ = source.rows();
  linear->cols_ = source.cols();
  const UnitPlan plan(source);
  linear->slotsOfUnit_ = uint32_t(plan.slotsOfUnit());
  linear->units_ = plan.runBegin[kWidths];
  std::copy(std::begin(plan.runBegin), std::end(plan.runBegin), linear->runBegin_);
  for (int width = 0; width < kWidths; ++width) {
    const uint32_t units = plan.runBegin[width + 1] - plan.runBegin[width];
    linear->runOffset_[width] = uint32_t(linear->tileStride_);
    linear->tileStride_ += uint64_t(units) * uint64_t(widthBits(width));
  }

  const size_t tiles = divideUp(source.rows(), kUnitRows);
  const size_t codeBytes = linear->tileStride_ * kUnitBytesABit, metadataBytes = plan.slots.size() * 64;
  {
    const auto lock = device->use();
    SLIM_RETURN_IF_ERROR(device->allocate(tiles * codeBytes, "packed weights", linear->codes_));
    SLIM_RETURN_IF_ERROR(device->allocate(tiles * metadataBytes, "scales", linear->metadata_));
    SLIM_RETURN_IF_ERROR(device->upload(plan.slots.data(), plan.slots.size(), "slots", linear->slots_));
    SLIM_RETURN_IF_ERROR(device->allocate(tiles, "arrival counters", linear->arrivals_));
    SLIM_RETURN_IF_ERROR(device->fill(linear->arrivals_.address(), 0, linear->arrivals_.bytes()));
  }
  constexpr size_t kTilesAtOnce = 64;  // a few megabytes of host memory
  std::vector<uint8_t> codes(std::min(kTilesAtOnce, tiles) * codeBytes);
  std::vector<uint16_t> metadata(std::min(kTilesAtOnce, tiles) * metadataBytes / 2);
  for (size_t first = 0; first < tiles; first += kTilesAtOnce) {
    if (cancelled.load()) return Status::aborted();
    const size_t count = std::min(kTilesAtOnce, tiles - first);
    std::fill(metadata.begin(), metadata.end(), uint16_t(0));
    pool.parallelFor(count, [&](size_t tile, int) {
      packTile(source, plan, first + tile, codes.data() + tile * codeBytes,
               metadata.data() + tile * metadataBytes / 2);
    });
    const auto lock = device->use();
    SLIM_RETURN_IF_ERROR(
        device->copyToDevice(linear->codes_.address() + first * codeBytes, codes.data(), count * codeBytes));
    SLIM_RETURN_IF_ERROR(device->copyToDevice(linear->metadata_.address() + first * metadataBytes,
                                              metadata.data(), count * metadataBytes));
    SLIM_RETURN_IF_ERROR(device->synchronize());
  }
  out = std::move(linear);
  return Status::success();
}

size_t PackedLinear::deviceBytes() const {
  return codes_.bytes() + metadata_.bytes() + slots_.bytes() + arrivals_.bytes();
}

std::string PackedLinear::describe(size_t tokens) const {
  return std::to_string(rows_) + " × " + std::to_string(cols_) + " weights, " + std::to_string(tokens) +
         " tokens";
}

Status PackedLinear::scaleTokens(Device& device, const DeviceActivations& x, size_t cols,
                                 ProductScratch& scratch) {
  SLIM_RETURN_IF_ERROR(atLeast(device, 2 * x.tokens, "token scales", scratch.scales));
  TokenScalesArguments arguments{};
  arguments.x = addressOf<const void>(x.address);
  arguments.scales = addressOf<float>(scratch.scales.address());
  arguments.stride = x.stride;
  arguments.columns = uint32_t(cols);
  arguments.type = uint32_t(x.type);
  return device.launch("tokenScales", {.gridX = unsigned(x.tokens), .threads = 256}, arguments,
                       std::to_string(x.tokens) + " tokens × " + std::to_string(cols));
}

struct PackedLinear::Plan {
  std::string kernel;
  Launch launch;
  uint32_t tokenTiles = 1, tileTokens = 8;  // of the activations
  size_t workspace = 0;                     // floats
};

Status PackedLinear::packActivations(const DeviceActivations& x, const Plan& plan,
                                     ProductScratch& scratch) const {
  const size_t tiles = plan.tokenTiles, tileTokens = plan.tileTokens, pairs = (tileTokens + 1) / 2;
  const size_t sums = size_t(units_) * tiles * pairs * floatsOfSums(slotsOfUnit_);
  SLIM_RETURN_IF_ERROR(
      atLeast(*device_, units_ * tiles * 256 * tileTokens, "activations", scratch.fragments));
  SLIM_RETURN_IF_ERROR(atLeast(*device_, sums, "sums of activations", scratch.sums));
  PackActivationsArguments arguments{};
  arguments.x = addressOf<const void>(x.address);
  arguments.scales = addressOf<const float>(scratch.scales.address());
  arguments.slots = addressOf<const Slot>(slots_.address());
  arguments.fragments = addressOf<void>(scratch.fragments.address());
  arguments.sums = addressOf<float>(scratch.sums.address());
  arguments.stride = x.stride;
  arguments.tokens = uint32_t(x.tokens);
  arguments.type = uint32_t(x.type);
  arguments.slotsOfUnit = slotsOfUnit_;
  arguments.tileTokens = plan.tileTokens;
  return device_->launch("packActivations",
                         {.gridX = units_, .gridY = unsigned(tiles), .threads = kUnitColumns}, arguments,
                         describe(x.tokens));
}

namespace {

/// What a unit costs by its width: instructions of the GEMV's loop.
uint32_t unitCost(int bits) {
  return bits == 1 ? 60 : bits == 2 ? 64 : bits == 3 ? 98 : bits == 4 ? 76 : 110;
}

/// Cuts K into stripes of about one cost.
void cutStripes(uint32_t stripes, PackedProductArguments& a) {
  uint64_t total = 0, passed = 0;
  for (int width = 0; width < kWidths; ++width)
    total += uint64_t(a.runBegin[width + 1] - a.runBegin[width]) * unitCost(widthBits(width));
  uint32_t stripe = 0;
  for (int width = 0; width < kWidths; ++width)
    for (uint32_t unit = a.runBegin[width]; unit < a.runBegin[width + 1]; ++unit) {
      for (; stripe < stripes && passed * stripes >= stripe * total; ++stripe)
        a.stripes[stripe] = uint16_t(unit);
      passed += unitCost(widthBits(width));
    }
  for (; stripe <= stripes; ++stripe) a.stripes[stripe] = uint16_t(a.units);
}

/// Units of the longest run of `count` stripes that begins at a multiple of it.
uint32_t mostUnits(const PackedProductArguments& a, uint32_t stripes, uint32_t count) {
  uint32_t most = 0;
  for (uint32_t i = 0; i < stripes; i += count)
    most = std::max(most, uint32_t(a.stripes[i + count] - a.stripes[i]));
  return most;
}

}  // namespace

Status PackedLinear::multiply(const DeviceActivations& x, const DeviceOutput& y, ProductScratch& scratch,
                              uint32_t splits) const {
  PackedProductArguments a{};
  a.rows = uint32_t(rows_);
  a.tokens = uint32_t(x.tokens);
  a.units = units_;
  a.tileStride = tileStride_;
  std::copy(std::begin(runBegin_), std::end(runBegin_), a.runBegin);
  std::copy(std::begin(runOffset_), std::end(runOffset_), a.runOffset);
  Plan plan;
  if (x.tokens > kMostFewTokens || !planFew(a, splits, plan)) plan = planMany(a, splits);
  SLIM_RETURN_IF_ERROR(packActivations(x, plan, scratch));
  if (plan.workspace > 0)
    SLIM_RETURN_IF_ERROR(atLeast(*device_, plan.workspace, "partial sums", scratch.workspace));
  a.codes = addressOf<const void>(codes_.address());
  a.metadata = addressOf<const void>(metadata_.address());
  a.fragments = addressOf<const void>(scratch.fragments.address());
  a.sums = addressOf<const float>(scratch.sums.address());
  a.scales = addressOf<const float>(scratch.scales.address());
  a.bias = addressOf<const float>(y.bias);
  a.y = addressOf<float>(y.address);
  a.workspace = addressOf<float>(scratch.workspace.address());
  a.arrivals = addressOf<uint32_t>(arrivals_.address());
  a.yStride = y.stride;
  a.accumulate = y.accumulate;
  return device_->launch(plan.kernel.c_str(), plan.launch, a, describe(x.tokens));
}

// One to eight tokens. False when K is so long that the activations of a CTA's part do not fit.
bool PackedLinear::planFew(PackedProductArguments& a, uint32_t splits, Plan& plan) const {
  const uint32_t tokens = tokensOfTile(a.tokens);
  // Rows of a CTA grow with the tokens, whose activations every CTA brings anew.
  a.warpsOfTile = tokens == 1 ? 4 : tokens == 4 ? 2 : 1;
  const uint32_t tilesOfCta = kGemvWarps / a.warpsOfTile;
  const auto rowBlocks = uint32_t(divideUp(divideUp(rows_, kUnitRows), tilesOfCta));
  const uint32_t bytesOfUnit = 256 * tokens + (tokens + 1) / 2 * floatsOfSums(slotsOfUnit_) * 4;
  // As many CTAs as run at once, each warp with two units or more; and as many as their activations ask for.
  const uint32_t ctasOfSm = slotsOfUnit_ == 1 ? 3 : 2;
  const uint32_t atOnce = ctasOfSm * uint32_t(device_->info().multiprocessors) / rowBlocks;
  if (splits == 0) splits = std::max(1u, std::min(atOnce, units_ / (2 * a.warpsOfTile)));
  uint32_t bytes = 0;
  for (;; ++splits) {
    const uint32_t stripes = splits * a.warpsOfTile;
    if (stripes > kMostStripes) return false;
    cutStripes(stripes, a);
    bytes = mostUnits(a, stripes, a.warpsOfTile) * bytesOfUnit;
    if (bytes <= kGemvSharedBytes) break;
  }
  plan.kernel = "packedGemv" + std::to_string(tokens) + "x" + std::to_string(slotsOfUnit_);
  plan.tileTokens = tokens;
  if (splits > 1) plan.workspace = size_t(splits) * rowBlocks * tilesOfCta * kUnitRows * tokens;
  plan.launch = {.gridX = rowBlocks,
                 .gridY = splits,
                 .threads = 32 * kGemvWarps,
                 .sharedBytes = std::max(bytes, kGemvWarps * tokens * kTokenStride * 4)};
  return true;
}

// More tokens, or more columns.
PackedLinear::Plan PackedLinear::planMany(PackedProductArguments& a, uint32_t splits) const {
  const auto tokenTiles = uint32_t(divideUp(a.tokens, 8));
  const GemmShape shape = GemmShape::forTiles(tokenTiles, slotsOfUnit_);
  const auto tokenBlocks = uint32_t(divideUp(tokenTiles, shape.tiles));
  const auto rowBlocks = uint32_t(divideUp(rows_, shape.rows()));
  const uint32_t atOnce =
      shape.atOnce() * uint32_t(device_->info().multiprocessors) / (rowBlocks * tokenBlocks);
  // A part has 4 units or more, or it would hardly begin; arrivals_ has a counter for every row tile.
  const bool counted = size_t(rowBlocks) * tokenBlocks <= arrivals_.count();
  if (splits == 0) splits = std::min(atOnce, units_ / (4 * shape.parts()));
  splits = counted ? std::clamp(splits, 1u, std::min(units_, kMostStripes / shape.parts())) : 1;
  cutStripes(splits * shape.parts(), a);
  Plan plan;
  plan.kernel = "packedGemm" + std::to_string(8 * shape.tiles) + "x" + std::to_string(slotsOfUnit_);
  plan.tokenTiles = tokenBlocks * shape.tiles;
  if (splits > 1) plan.workspace = size_t(splits) * a.tokens * rowBlocks * shape.rows();
  plan.launch = {.gridX = rowBlocks,
                 .gridY = tokenBlocks,
                 .gridZ = splits,
                 .threads = 32 * kGemmWarps,
                 .sharedBytes = shape.sharedBytes()};
  return plan;
}

}  // namespace slim::cuda
