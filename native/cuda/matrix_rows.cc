#include "cuda/matrix_rows.h"

#include "cuda/kernels/linear_algebra_arguments.h"

namespace slim::cuda {

Status copyRows(Device& device, size_t rows, size_t width, const DeviceRows& a, const DeviceRows& b,
                const DeviceRows& out) {
  if (rows == 0 || width == 0) return Status::success();
  CopyRowsArguments arguments{};
  arguments.a = addressOf<const float>(a.data);
  arguments.b = addressOf<const float>(b.data);
  arguments.out = addressOf<float>(out.data);
  arguments.aStride = a.stride;
  arguments.bStride = b.stride;
  arguments.outStride = out.stride;
  arguments.width = uint32_t(width);
  return device.launch("copyRows", {.gridX = unsigned(rows), .threads = 256}, arguments,
                       std::to_string(rows) + " rows of " + std::to_string(width));
}

Status mirrorUpper(Device& device, DeviceAddress a, size_t n) {
  MirrorArguments arguments{};
  arguments.a = addressOf<float>(a);
  arguments.n = uint32_t(n);
  const auto tiles = unsigned((n + 31) / 32);
  return device.launch("mirrorUpper", {.gridX = tiles, .gridY = tiles, .threads = 256}, arguments,
                       std::to_string(n) + " rows");
}

Status rowDots(Device& device, size_t rows, size_t width, DeviceAddress a, DeviceAddress b,
               DeviceAddress out) {
  RowDotsArguments arguments{};
  arguments.a = addressOf<const float>(a);
  arguments.b = addressOf<const float>(b);
  arguments.out = addressOf<double>(out);
  arguments.width = uint32_t(width);
  return device.launch("rowDots", {.gridX = unsigned(rows), .threads = 256}, arguments,
                       std::to_string(rows) + " rows of " + std::to_string(width));
}

Status downloadDiagonal(Device& device, DeviceAddress h, size_t n, std::vector<float>& out) {
  out.resize(n);
  DeviceBuffer<float> diagonal;
  SLIM_RETURN_IF_ERROR(device.allocate(n, "a diagonal", diagonal));
  SLIM_RETURN_IF_ERROR(copyRows(device, n, 1, {h, n + 1}, {}, {diagonal.address(), 1}));
  return device.copyToHost(out.data(), diagonal.address(), diagonal.bytes());
}

}  // namespace slim::cuda
