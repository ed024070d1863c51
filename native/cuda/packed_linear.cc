#include "cuda/packed_linear.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "cuda/kernels/gemm_shape.h"
#include "cuda/unit_packing.h"
#include "quant/groups.h"

namespace slim::cuda {
namespace {

constexpr uint32_t kMostFewTokens = 8;
constexpr uint32_t kGemvWarps = 8;
/// CTAs of the GEMV that a multiprocessor's registers hold, and the shared memory with which as many fit on
/// every architecture (100 KB on sm_86 and sm_89, 1 KB a CTA the system's).
constexpr uint32_t gemvCtas(uint32_t slotsOfUnit) { return slotsOfUnit == 1 ? 3 : 2; }
constexpr size_t gemvSharedBytes(uint32_t slotsOfUnit) { return 96 * 1024 / gemvCtas(slotsOfUnit); }
/// Of float16 weights, which are to be read back before they leave the second-level cache.
constexpr size_t kPanelBytes = 32 << 20;

/// Tokens that a tile of activations has room for.
uint32_t tokensOfTile(size_t tokens) { return tokens == 1 ? 1 : tokens <= 4 ? 4 : 8; }

template <typename T>
Status atLeast(Device& device, size_t count, const char* about, DeviceBuffer<T>& buffer) {
  if (buffer.count() >= count) return Status::success();
  buffer = DeviceBuffer<T>();
  return device.allocate(count, about, buffer);
}

/// A power of two that brings the largest weight that the scales allow between 2^14 and 2^15.
float scaleOfPanels(const PackedMatrix& source) {
  const Groups groups{source.cols(), source.groupSize()};
  float most = 0;
  for (size_t g = 0; g < groups.count(); ++g) {
    const int bits = source.groupBits()->data()[g];
    for (size_t r = 0; r < source.rows(); ++r) {
      const PackedMatrix::RowOfGroup with = source.rowOfGroup(g, r);
      const float scale = std::abs(halfToFloat(with.scale));
      most = std::max(most,
                      bits == 1 ? scale + std::abs(halfToFloat(with.mean)) : scale * float((1 << bits) - 1));
    }
  }
  return most > 0 ? std::ldexp(1.0f, 14 - std::ilogb(most)) : 1;
}

}  // namespace

Status PackedLinear::make(std::shared_ptr<Device> device, const PackedMatrix& source, ThreadPool& pool,
                          const CancelFlag& cancelled, std::shared_ptr<PackedLinear>& out) {
  auto linear = std::make_shared<PackedLinear>();
  linear->device_ = device;
  linear->rows_ = source.rows();
  linear->cols_ = source.cols();
  linear->panelScale_ = scaleOfPanels(source);
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

namespace {

/// Whether panels need fewer instructions than packedGemm…: of a lane for a weight, 2 bits,
/// test/cuda/metrics.json.
bool panelsPay(size_t tokens, uint32_t slotsOfUnit) {
  const size_t tokensAtOnce = 8 * GemmShape::forTiles(8, slotsOfUnit).tiles;
  const double gemm = (tokensAtOnce == 64 ? 3.45 : 2.93) * double(divideUp(tokens, tokensAtOnce));
  return 3.3 + 4.6 * double(divideUp(tokens, kPanelGemmTokens)) < gemm;
}

}  // namespace

struct PackedLinear::Plan {
  std::string kernel;
  Launch launch;
  uint32_t tokenTiles = 1, tileTokens = 8;  // of the activations
  size_t workspace = 0;                     // floats
  uint32_t rowBlocks = 0;                   // of a panel
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

/// Cuts K into stripes of about as many units, which cost the same when they are float16.
void cutEvenly(uint32_t stripes, PackedProductArguments& a) {
  for (uint32_t i = 0; i <= stripes; ++i) a.stripes[i] = uint16_t(uint64_t(a.units) * i / stripes);
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
  const bool few = x.tokens <= kMostFewTokens && planFew(a, splits, plan);
  const bool panels = !few && panelsPay(x.tokens, slotsOfUnit_);
  if (!few) plan = panels ? planPanels(a, splits) : planMany(a, splits);
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
  if (panels) return multiplyPanels(a, plan, scratch);
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
  const uint32_t atOnce = gemvCtas(slotsOfUnit_) * uint32_t(device_->info().multiprocessors) / rowBlocks;
  if (splits == 0) splits = std::max(1u, std::min(atOnce, units_ / (2 * a.warpsOfTile)));
  uint32_t bytes = 0;
  for (;; ++splits) {
    const uint32_t stripes = splits * a.warpsOfTile;
    if (stripes > kMostStripes) return false;
    cutStripes(stripes, a);
    bytes = mostUnits(a, stripes, a.warpsOfTile) * bytesOfUnit;
    if (bytes <= gemvSharedBytes(slotsOfUnit_)) break;
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

// Many tokens.
PackedLinear::Plan PackedLinear::planPanels(PackedProductArguments& a, uint32_t splits) const {
  const auto tokenBlocks = uint32_t(divideUp(a.tokens, kPanelGemmTokens));
  const auto rowBlocks = uint32_t(divideUp(rows_, kPanelGemmRows));
  const size_t bytesOfBlock = size_t(kPanelGemmRows) * units_ * kUnitColumns * 2;
  Plan plan;
  plan.rowBlocks = uint32_t(std::clamp<size_t>(kPanelBytes / bytesOfBlock, 1, rowBlocks));
  const uint32_t ctas = plan.rowBlocks * tokenBlocks;
  if (splits == 0) splits = std::min(2 * uint32_t(device_->info().multiprocessors) / ctas, units_ / 4);
  splits = ctas <= arrivals_.count() ? std::clamp(splits, 1u, std::min(units_, kMostStripes)) : 1;
  cutEvenly(splits, a);
  plan.kernel = "panelGemm";
  plan.tokenTiles = tokenBlocks * kPanelGemmTokens / 8;
  if (splits > 1) plan.workspace = size_t(splits) * a.tokens * plan.rowBlocks * kPanelGemmRows;
  plan.launch = {.gridY = tokenBlocks,
                 .gridZ = splits,
                 .threads = 128,
                 .sharedBytes = kPanelStages * (kPanelGemmRows + kPanelGemmTokens) * 64};
  return plan;
}

Status PackedLinear::multiplyPanels(PackedProductArguments& a, const Plan& plan,
                                    ProductScratch& scratch) const {
  const size_t bytes = size_t(plan.rowBlocks) * kPanelGemmRows * units_ * kUnitColumns * 2;
  SLIM_RETURN_IF_ERROR(atLeast(*device_, bytes, "a panel of weights", scratch.panel));
  const uint32_t tilesOfBlock = kPanelGemmRows / kUnitRows;
  DequantizePanelArguments d{};
  d.codes = a.codes;
  d.metadata = a.metadata;
  d.panel = addressOf<void>(scratch.panel.address());
  d.tileStride = tileStride_;
  d.units = units_;
  d.tiles = uint32_t(divideUp(rows_, kUnitRows));
  d.scale = panelScale_;
  std::copy(std::begin(runBegin_), std::end(runBegin_), d.runBegin);
  std::copy(std::begin(runOffset_), std::end(runOffset_), d.runOffset);
  a.codes = addressOf<const void>(scratch.panel.address());
  a.unscale = 1 / panelScale_;
  const auto y = a.y.value, bias = a.bias.value;
  for (size_t firstRow = 0; firstRow < rows_; firstRow += size_t(plan.rowBlocks) * kPanelGemmRows) {
    a.rows = uint32_t(std::min(rows_ - firstRow, size_t(plan.rowBlocks) * kPanelGemmRows));
    a.y.value = y + firstRow * sizeof(float);
    if (bias) a.bias.value = bias + firstRow * sizeof(float);
    d.firstTile = uint32_t(firstRow / kUnitRows);
    Launch launch = plan.launch;
    launch.gridX = uint32_t(divideUp(a.rows, kPanelGemmRows));
    const std::string dequantize = std::string("dequantizePanel") + std::to_string(slotsOfUnit_);
    SLIM_RETURN_IF_ERROR(device_->launch(
        dequantize.c_str(), {.gridX = units_, .gridY = launch.gridX * tilesOfBlock / 8, .threads = 256}, d,
        describe(a.tokens)));
    SLIM_RETURN_IF_ERROR(device_->launch(plan.kernel.c_str(), launch, a, describe(a.tokens)));
  }
  return Status::success();
}

}  // namespace slim::cuda
