#include "cuda/packed_linear.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "quant/groups.h"

namespace slim::cuda {
namespace {

constexpr uint32_t kMostFewTokens = 8;
constexpr size_t kGemvSharedBytes = 32 * 1024;  // three CTAs an SM on every architecture
constexpr uint32_t kGemvCtasOfSm = 3;

/// Tokens that a tile of activations has room for.
uint32_t tokensOfTile(size_t tokens) { return tokens == 1 ? 1 : tokens <= 4 ? 4 : 8; }

size_t divideUp(size_t a, size_t b) { return (a + b - 1) / b; }

/// Slots in the device's order: which group, from which of its columns.
struct SlotSource {
  size_t group, start, width;
};

struct UnitPlan {
  uint32_t slotColumns = 0;
  std::vector<SlotSource> sources;  // width 0: an empty slot
  std::vector<Slot> slots;
  uint32_t runBegin[kWidths + 1] = {};
};

// Groups sorted by width; a slot is a group of up to 32, 64 or 128 columns, or 128 columns of a larger one; a
// run of equal widths is filled up to whole units with empty slots.
UnitPlan planUnits(const PackedMatrix& source) {
  UnitPlan plan;
  const size_t groupSize = source.groupSize();
  plan.slotColumns = groupSize <= 32 ? 32 : groupSize <= 64 ? 64 : 128;
  const uint32_t slotsOfUnit = kUnitColumns / plan.slotColumns;
  const Groups groups{source.cols(), groupSize};
  for (int width = 0; width < kWidths; ++width) {
    const auto bits = uint16_t(widthBits(width));
    plan.runBegin[width] = uint32_t(plan.slots.size()) / slotsOfUnit;
    for (size_t g = 0; g < groups.count(); ++g) {
      if (widthIndex(source.groupBits()->data()[g]) != width) continue;
      for (size_t start = 0; start < groups.width(g); start += plan.slotColumns) {
        const size_t columns = std::min<size_t>(plan.slotColumns, groups.width(g) - start);
        plan.sources.push_back({g, start, columns});
        plan.slots.push_back({uint32_t(groups.begin(g) + start), uint16_t(columns), bits});
      }
    }
    while (plan.slots.size() % slotsOfUnit != 0) {
      plan.sources.push_back({0, 0, 0});
      plan.slots.push_back({0, 0, bits});
    }
  }
  plan.runBegin[kWidths] = uint32_t(plan.slots.size()) / slotsOfUnit;
  return plan;
}

// 16 rows × 128 codes into a unit's words.
template <int kBits>
void packUnit(const uint8_t (&codes)[kUnitRows][kUnitColumns], uint8_t* out) {
  std::array<uint32_t, 64 * kBits> words{};
  for (int lane = 0; lane < 32; ++lane)
    for (int tile = 0; tile < kTilesOfUnit; ++tile)
      for (int reg = 0; reg < 4; ++reg) {
        const uint8_t* two = &codes[lane / 4 + reg % 2 * 8][tile * 16 + reg / 2 * 8 + lane % 4 * 2];
        const Field field = fieldOf(kBits, tile, reg);
        uint32_t& word = words[size_t(wordPlace(kBits, lane, field.word))];
        const auto spread = [&](uint32_t first, uint32_t second, int lowest, int rotation) {
          return std::rotl(first << lowest | second << (lowest + 16), rotation);
        };
        if (kBits == 3) {
          const Field low = lowFieldOf(tile, reg);
          word |= spread(two[0] >> 1, two[1] >> 1, field.lowest + 1, field.rotation);
          words[size_t(wordPlace(kBits, lane, low.word))] |=
              spread(two[0] & 1, two[1] & 1, low.lowest, low.rotation);
        } else {
          word |= spread(two[0], two[1], field.lowest, field.rotation);
        }
      }
  std::memcpy(out, words.data(), sizeof words);
}

void packUnit(int bits, const uint8_t (&codes)[kUnitRows][kUnitColumns], uint8_t* out) {
  switch (bits) {
    case 1:
      return packUnit<1>(codes, out);
    case 2:
      return packUnit<2>(codes, out);
    case 3:
      return packUnit<3>(codes, out);
    case 4:
      return packUnit<4>(codes, out);
    default:
      return packUnit<8>(codes, out);
  }
}

uint16_t halfOfInteger(uint32_t value) {  // exact up to 2048
  if (value == 0) return 0;
  const auto exponent = uint32_t(std::bit_width(value)) - 1;
  return uint16_t((exponent + 15) << 10 | ((value << (10 - exponent)) & 0x3ff));
}

// One row tile: its codes and its metadata.
void packTile(const PackedMatrix& source, const UnitPlan& plan, size_t tile, uint8_t* codes,
              uint16_t* metadata) {
  const size_t slotsOfUnit = kUnitColumns / plan.slotColumns;
  const size_t rows = std::min<size_t>(kUnitRows, source.rows() - tile * kUnitRows);
  for (size_t first = 0; first < plan.slots.size(); first += slotsOfUnit) {
    uint8_t unit[kUnitRows][kUnitColumns] = {};
    for (size_t i = 0; i < slotsOfUnit; ++i) {
      const SlotSource& from = plan.sources[first + i];
      if (from.width == 0) continue;
      const bool one = plan.slots[first + i].bits == 1;
      for (size_t r = 0; r < rows; ++r) {
        const size_t row = tile * kUnitRows + r;
        source.readCodes(from.group, row, from.start, from.width, unit[r] + i * plan.slotColumns);
        const PackedMatrix::RowOfGroup with = source.rowOfGroup(from.group, row);
        uint16_t* place = metadata + ((first + i) * kUnitRows + r % 8 * 2 + r / 8) * 2;
        place[0] = with.scale;
        place[1] = one ? with.mean : halfOfInteger(with.zero);
      }
    }
    const int bits = plan.slots[first].bits;
    packUnit(bits, unit, codes);
    codes += bits * kUnitBytesABit;
  }
}

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
  const UnitPlan plan = planUnits(source);
  linear->slotsOfUnit_ = kUnitColumns / plan.slotColumns;
  linear->units_ = plan.runBegin[kWidths];
  std::copy(std::begin(plan.runBegin), std::end(plan.runBegin), linear->runBegin_);
  for (int width = 0; width < kWidths; ++width) {
    const uint32_t units = plan.runBegin[width + 1] - plan.runBegin[width];
    linear->runOffset_[width] = uint32_t(linear->tileStride_);
    linear->tileStride_ += uint64_t(units) * uint64_t(widthBits(width));
    if (units > 0) linear->widestBits_ = uint32_t(widthBits(width));
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

Status PackedLinear::packActivations(const DeviceActivations& x, uint32_t tileTokens,
                                     ProductScratch& scratch) const {
  const size_t tiles = divideUp(x.tokens, 8), pairs = (tileTokens + 1) / 2;
  const size_t places = size_t(units_) * slotsOfUnit_ * tiles * pairs;
  SLIM_RETURN_IF_ERROR(
      atLeast(*device_, units_ * tiles * 256 * tileTokens, "activations", scratch.fragments));
  SLIM_RETURN_IF_ERROR(atLeast(*device_, places, "sums of activations", scratch.sums));
  PackActivationsArguments arguments{};
  arguments.x = addressOf<const void>(x.address);
  arguments.scales = addressOf<const float>(scratch.scales.address());
  arguments.slots = addressOf<const Slot>(slots_.address());
  arguments.fragments = addressOf<void>(scratch.fragments.address());
  arguments.sums = addressOf<SlotSums>(scratch.sums.address());
  arguments.stride = x.stride;
  arguments.tokens = uint32_t(x.tokens);
  arguments.type = uint32_t(x.type);
  arguments.slotsOfUnit = slotsOfUnit_;
  arguments.tileTokens = tileTokens;
  return device_->launch("packActivations",
                         {.gridX = units_, .gridY = unsigned(tiles), .threads = kUnitColumns}, arguments,
                         describe(x.tokens));
}

Status PackedLinear::multiply(const DeviceActivations& x, const DeviceOutput& y,
                              ProductScratch& scratch) const {
  const bool few = x.tokens <= kMostFewTokens;
  const uint32_t tileTokens = tokensOfTile(x.tokens);
  SLIM_RETURN_IF_ERROR(packActivations(x, tileTokens, scratch));
  PackedProductArguments a{};
  a.codes = addressOf<const void>(codes_.address());
  a.metadata = addressOf<const void>(metadata_.address());
  a.fragments = addressOf<const void>(scratch.fragments.address());
  a.sums = addressOf<const SlotSums>(scratch.sums.address());
  a.scales = addressOf<const float>(scratch.scales.address());
  a.bias = addressOf<const float>(y.bias);
  a.y = addressOf<float>(y.address);
  a.arrivals = addressOf<uint32_t>(arrivals_.address());
  a.tileStride = tileStride_;
  a.yStride = y.stride;
  a.rows = uint32_t(rows_);
  a.tokens = uint32_t(x.tokens);
  a.units = units_;
  a.accumulate = y.accumulate;
  std::copy(std::begin(runBegin_), std::end(runBegin_), a.runBegin);
  std::copy(std::begin(runOffset_), std::end(runOffset_), a.runOffset);
  return few ? multiplyFew(a, scratch) : multiplyMany(a, scratch);
}

namespace {

uint32_t totalCost(const uint32_t (&runBegin)[kWidths + 1]) {
  uint32_t cost = 0;
  for (int width = 0; width < kWidths; ++width)
    cost += (runBegin[width + 1] - runBegin[width]) * unitCost(widthBits(width));
  return cost;
}

/// Units of the largest of `stripes` stripes: what the kernels' unitAtCost makes of them, or one more.
uint32_t mostUnits(const uint32_t (&runBegin)[kWidths + 1], uint32_t stripeCost) {
  uint32_t cheapest = ~0u;
  for (int width = 0; width < kWidths; ++width)
    if (runBegin[width + 1] > runBegin[width]) cheapest = std::min(cheapest, unitCost(widthBits(width)));
  return std::min(runBegin[kWidths], stripeCost / cheapest + 1);
}

}  // namespace

Status PackedLinear::multiplyFew(PackedProductArguments& a, ProductScratch& scratch) const {
  const uint32_t tokens = tokensOfTile(a.tokens);
  // Rows of a CTA grow with the tokens, whose activations every CTA brings anew.
  a.warpsOfTile = tokens == 1 ? 4 : tokens == 4 ? 2 : 1;
  const auto rowBlocks = uint32_t(divideUp(divideUp(rows_, kUnitRows), 8 / a.warpsOfTile));
  const uint32_t cost = totalCost(a.runBegin);
  const uint32_t bytesOfUnit = 256 * tokens + slotsOfUnit_ * ((tokens + 1) / 2) * uint32_t(sizeof(SlotSums));
  const auto stripeCostOf = [&](uint32_t splits) { return uint32_t(divideUp(cost, splits * a.warpsOfTile)); };
  const auto unitsOf = [&](uint32_t splits) {
    return mostUnits(a.runBegin, stripeCostOf(splits) * a.warpsOfTile);
  };
  // As many CTAs as run at once, each warp with two units or more; and as many as their activations ask for.
  const uint32_t atOnce = kGemvCtasOfSm * uint32_t(device_->info().multiprocessors) / rowBlocks;
  uint32_t splits = std::clamp(std::min(atOnce, units_ / (2 * a.warpsOfTile)), 1u, units_);
  while (splits < units_ && unitsOf(splits) * bytesOfUnit > kGemvSharedBytes) ++splits;
  a.stripeCost = stripeCostOf(splits);
  if (splits > 1) {
    const size_t outputs = size_t(rowBlocks) * (8 / a.warpsOfTile) * kUnitRows * tokens;
    SLIM_RETURN_IF_ERROR(atLeast(*device_, splits * outputs, "partial sums", scratch.workspace));
    a.workspace = addressOf<float>(scratch.workspace.address());
  }
  constexpr uint32_t kTokenStride = 20;  // packed_gemv.cuh
  const uint32_t shared = std::max(unitsOf(splits) * bytesOfUnit, 8 * tokens * kTokenStride * 4);
  const std::string kernel = "packedGemv" + std::to_string(tokens) + "x" + std::to_string(slotsOfUnit_);
  return device_->launch(kernel.c_str(),
                         {.gridX = rowBlocks, .gridY = splits, .threads = 256, .sharedBytes = shared}, a,
                         describe(a.tokens));
}

Status PackedLinear::multiplyMany(PackedProductArguments& a, ProductScratch& scratch) const {
  const uint32_t tokens = a.tokens <= 16 ? 16 : a.tokens <= 32 ? 32 : 64, rowTiles = tokens == 64 ? 2 : 1;
  const auto rowBlocks = uint32_t(divideUp(rows_, 128 * rowTiles));
  const auto tokenBlocks = uint32_t(divideUp(a.tokens, tokens));
  a.codeBytes = widestBits_ * kUnitBytesABit;
  const uint32_t stageBytes =
      tokens / 8 * (2048 + slotsOfUnit_ * 4 * uint32_t(sizeof(SlotSums))) + 8 * rowTiles * a.codeBytes;
  const uint32_t ctasOfSm = tokens == 64 ? 1 : 2;
  const auto most = uint32_t(device_->info().sharedBytesOfBlock);
  a.stages = std::clamp(most / stageBytes, 2u, 4u);
  const uint32_t cost = totalCost(a.runBegin);
  const uint32_t atOnce = ctasOfSm * uint32_t(device_->info().multiprocessors) / (rowBlocks * tokenBlocks);
  // A split has as many units as the ring, or it would not fill it; arrivals_ has a counter for every row
  // tile.
  const bool counted = size_t(rowBlocks) * tokenBlocks <= arrivals_.count();
  const uint32_t splits = counted ? std::clamp(std::min(atOnce, units_ / 4), 1u, units_) : 1;
  a.stripeCost = uint32_t(divideUp(cost, splits));
  if (splits > 1) {
    const size_t paddedRows = size_t(rowBlocks) * 128 * rowTiles;
    SLIM_RETURN_IF_ERROR(
        atLeast(*device_, splits * a.tokens * paddedRows, "partial sums", scratch.workspace));
    a.workspace = addressOf<float>(scratch.workspace.address());
  }
  const std::string kernel = "packedGemm" + std::to_string(tokens) + "x" + std::to_string(slotsOfUnit_);
  return device_->launch(kernel.c_str(),
                         {.gridX = rowBlocks,
                          .gridY = tokenBlocks,
                          .gridZ = splits,
                          .threads = 256,
                          .sharedBytes = a.stages * stageBytes},
                         a, describe(a.tokens));
}

}  // namespace slim::cuda
