#include "cuda/group_quantization.h"

#include <algorithm>

#include "cuda/inverse_factor.h"
#include "cuda/kernels/quantization_arguments.h"
#include "cuda/multiply.h"

namespace slim::cuda {
namespace {

constexpr size_t kLazyColumns = 512;  // as slim::quantizeGroups

unsigned rowTiles(size_t rows) { return unsigned((rows + kQuantizedRows - 1) / kQuantizedRows); }

std::string describe(size_t rows, const Groups& groups) {
  return std::to_string(rows) + " × " + std::to_string(groups.cols) + " in groups of " +
         std::to_string(groups.groupSize);
}

// The kernel whose warps hold rows of this many columns.
const char* kernelOf(size_t width) {
  return width <= 32    ? "quantizeGroups32"
         : width <= 64  ? "quantizeGroups64"
         : width <= 128 ? "quantizeGroups128"
                        : "quantizeGroups256";
}

// losses [rows] += Σ e² of the columns of a batch, errors [rows, width] with row stride `stride`.
Status addLosses(Device& device, DeviceAddress errors, size_t stride, size_t rows, size_t width,
                 DeviceAddress losses) {
  AddLossesArguments a{};
  a.errors = addressOf<const float>(errors);
  a.losses = addressOf<double>(losses);
  a.stride = stride;
  a.rows = uint32_t(rows);
  a.width = uint32_t(width);
  return device.launch("addLosses", {.gridX = rowTiles(rows), .threads = 32 * kQuantizedRows}, a,
                       std::to_string(rows) + " rows × " + std::to_string(width));
}

}  // namespace

Status checkDeviceGroupSize(const Groups& groups) {
  const size_t widest = std::min(groups.groupSize, groups.cols);
  if (widest >= 1 && widest <= kMostGroupColumns) return Status::success();
  Status status = Status::error("SLIM_GROUP_SIZE", "A group of " + std::to_string(groups.groupSize) +
                                                       " channels is more than a GPU quantizes");
  status.parameter = "groupSize";
  status.expected = std::string("1 to ") + std::to_string(kMostGroupColumns);
  status.received = std::to_string(groups.groupSize);
  status.remedy = "Choose a smaller group size, or quantize on the CPU";
  return status;
}

Status quantizeGroups(Device& device, DeviceAddress w, size_t rows, const Groups& groups,
                      const std::vector<uint8_t>& groupBits, const DeviceGroupQuantization& options,
                      const CancelFlag& cancelled, DeviceGroupCodes& out) {
  SLIM_RETURN_IF_ERROR(checkDeviceGroupSize(groups));
  const size_t cols = groups.cols, count = groups.count();
  const DeviceInverseFactor* factor = options.factor;
  const std::string shape = describe(rows, groups);
  out.rows = rows;
  out.cols = cols;
  out.groupSize = groups.groupSize;
  out.groupBits = groupBits;
  SLIM_RETURN_IF_ERROR(device.allocate(rows * cols, "codes " + shape, out.codes));
  SLIM_RETURN_IF_ERROR(device.allocate(count * rows, "scales " + shape, out.scales));
  SLIM_RETURN_IF_ERROR(device.allocate(count * rows, "means " + shape, out.means));
  SLIM_RETURN_IF_ERROR(device.allocate(count * rows, "zero points " + shape, out.zeros));
  DeviceBuffer<uint8_t> bits;
  SLIM_RETURN_IF_ERROR(device.upload(groupBits.data(), count, "group bits", bits));

  QuantizeGroupsArguments a{};
  a.w = addressOf<const float>(w);
  a.h = addressOf<const float>(options.h);
  a.groupBits = addressOf<const uint8_t>(bits.address());
  a.codes = addressOf<uint8_t>(out.codes.address());
  a.scales = addressOf<uint16_t>(out.scales.address());
  a.means = addressOf<uint16_t>(out.means.address());
  a.zeros = addressOf<uint8_t>(out.zeros.address());
  a.rows = uint32_t(rows);
  a.cols = uint32_t(cols);
  a.groupSize = uint32_t(groups.groupSize);
  a.quantizer = uint32_t(options.quantizer);
  const char* kernel = kernelOf(groups.width(0));
  const auto quantize = [&](size_t first, size_t number) {
    a.firstGroup = uint32_t(first);
    return device.launch(kernel,
                         {.gridX = unsigned(number), .gridY = rowTiles(rows), .threads = 32 * kQuantizedRows},
                         a, shape);
  };
  if (!factor) return quantize(0, count);

  const size_t lazyGroups = std::max<size_t>(1, kLazyColumns / groups.groupSize);
  const size_t lazyColumns = lazyGroups * groups.groupSize;
  const DeviceAddress upper = factor->upper.address();
  DeviceBuffer<float> errors;  // [rows, lazyColumns]
  SLIM_RETURN_IF_ERROR(device.allocate(rows * lazyColumns, "errors of lazy columns " + shape, errors));
  a.upper = addressOf<const float>(upper);
  a.errorStride = lazyColumns;
  // W[:, from … to) −= E · U[begin … end), of the batch that begins at column `batch`.
  const auto compensate = [&](size_t batch, size_t begin, size_t end, size_t from, size_t to) {
    if (from >= to) return Status::success();
    return multiply(device, rows, to - from, end - begin,
                    DeviceOperand::rowMajor(errors.address() + (begin - batch) * sizeof(float), lazyColumns),
                    DeviceOperand::columnMajor(upper + (begin * cols + from) * sizeof(float), cols),
                    w + from * sizeof(float), cols, {.alpha = -1, .accumulate = true});
  };
  for (size_t g = 0; g < count; ++g) {
    if (cancelled.load()) return Status::aborted();
    const size_t begin = groups.begin(g), end = groups.end(g);
    const size_t batchGroup = g - g % lazyGroups, batch = groups.begin(batchGroup);
    const size_t batchEnd = groups.end(std::min(batchGroup + lazyGroups, count) - 1);
    a.errors = addressOf<float>(errors.address() + (begin - batch) * sizeof(float));
    SLIM_RETURN_IF_ERROR(quantize(g, 1));
    SLIM_RETURN_IF_ERROR(compensate(batch, begin, end, end, batchEnd));
    if (end != batchEnd) continue;
    if (options.losses)
      SLIM_RETURN_IF_ERROR(
          addLosses(device, errors.address(), lazyColumns, rows, end - batch, options.losses));
    SLIM_RETURN_IF_ERROR(compensate(batch, batch, end, end, cols));
  }
  return Status::success();
}

Status dequantize(Device& device, const DeviceGroupCodes& codes, DeviceAddress w) {
  DeviceBuffer<uint8_t> bits;
  SLIM_RETURN_IF_ERROR(device.upload(codes.groupBits.data(), codes.groupBits.size(), "group bits", bits));
  DequantizeGroupsArguments a{};
  a.codes = addressOf<const uint8_t>(codes.codes.address());
  a.groupBits = addressOf<const uint8_t>(bits.address());
  a.scales = addressOf<const uint16_t>(codes.scales.address());
  a.means = addressOf<const uint16_t>(codes.means.address());
  a.zeros = addressOf<const uint8_t>(codes.zeros.address());
  a.w = addressOf<float>(w);
  a.rows = uint32_t(codes.rows);
  a.cols = uint32_t(codes.cols);
  a.groupSize = uint32_t(codes.groupSize);
  return device.launch(
      "dequantizeGroups",
      {.gridX = unsigned((codes.cols + 255) / 256), .gridY = rowTiles(codes.rows), .threads = 256}, a,
      describe(codes.rows, {codes.cols, codes.groupSize}));
}

Status pack(Device& device, const DeviceGroupCodes& codes, std::shared_ptr<PackedMatrix>& out) {
  const Groups groups{codes.cols, codes.groupSize};
  const size_t rows = codes.rows, count = groups.count();
  const std::string shape = describe(rows, groups);
  const PackedOffsets offsets(groups, rows, codes.groupBits.data());
  const std::vector<uint64_t> codeOffsets(offsets.codes.begin(), offsets.codes.end()),
      zeroOffsets(offsets.zeros.begin(), offsets.zeros.end());
  DeviceBuffer<uint8_t> bits, qweight, qzeros;
  DeviceBuffer<uint64_t> codesAt, zerosAt;
  SLIM_RETURN_IF_ERROR(device.upload(codes.groupBits.data(), count, "group bits", bits));
  SLIM_RETURN_IF_ERROR(device.upload(codeOffsets.data(), count, "offsets of codes", codesAt));
  SLIM_RETURN_IF_ERROR(device.upload(zeroOffsets.data(), count, "offsets of zero points", zerosAt));
  SLIM_RETURN_IF_ERROR(device.allocate(codeOffsets[count], "packed codes " + shape, qweight));
  SLIM_RETURN_IF_ERROR(device.allocate(zeroOffsets[count], "packed zero points " + shape, qzeros));

  PackGroupsArguments a{};
  a.codes = addressOf<const uint8_t>(codes.codes.address());
  a.groupBits = addressOf<const uint8_t>(bits.address());
  a.means = addressOf<const uint16_t>(codes.means.address());
  a.zeros = addressOf<const uint8_t>(codes.zeros.address());
  a.codeOffsets = addressOf<const uint64_t>(codesAt.address());
  a.zeroOffsets = addressOf<const uint64_t>(zerosAt.address());
  a.qweight = addressOf<uint8_t>(qweight.address());
  a.qzeros = addressOf<uint8_t>(qzeros.address());
  a.rows = uint32_t(rows);
  a.cols = uint32_t(codes.cols);
  a.groupSize = uint32_t(codes.groupSize);
  const unsigned gridX = unsigned(count);
  SLIM_RETURN_IF_ERROR(device.launch(
      "packCodes", {.gridX = gridX, .gridY = rowTiles(rows), .threads = 32 * kQuantizedRows}, a, shape));
  const unsigned mostBytes = unsigned(2 * rows);  // means; zero points take at most one byte a row
  SLIM_RETURN_IF_ERROR(device.launch(
      "packZeros", {.gridX = gridX, .gridY = (mostBytes + 255) / 256, .threads = 256}, a, shape));

  TensorPtr codeBytes, widths, scales, zeroBytes;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::U8, {offsets.codes[count]}, codeBytes));
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::U8, {count}, widths));
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F16, {count, rows}, scales));
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::U8, {offsets.zeros[count]}, zeroBytes));
  std::copy_n(codes.groupBits.data(), count, widths->data());
  SLIM_RETURN_IF_ERROR(device.copyToHost(codeBytes->data(), qweight.address(), codeBytes->bytes()));
  SLIM_RETURN_IF_ERROR(device.copyToHost(scales->data(), codes.scales.address(), scales->bytes()));
  SLIM_RETURN_IF_ERROR(device.copyToHost(zeroBytes->data(), qzeros.address(), zeroBytes->bytes()));
  return PackedMatrix::fromParts(rows, codes.cols, codes.groupSize, codeBytes, widths, scales, zeroBytes,
                                 out);
}

}  // namespace slim::cuda
