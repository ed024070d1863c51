#include "cuda/matrix_operations.h"

#include <algorithm>
#include <numeric>

#include "cuda/kernels/matrix_arguments.h"
#include "cuda/matrix_rows.h"

namespace slim::cuda {
namespace {

constexpr unsigned kThreads = 256;

unsigned ctasOf(size_t count, size_t most) {
  return unsigned(std::clamp<size_t>((count + kThreads - 1) / kThreads, 1, most));
}

}  // namespace

Status addScaled(Device& device, size_t count, float alpha, DeviceAddress x, DeviceAddress y) {
  AddScaledArguments a{};
  a.x = addressOf<const float>(x);
  a.y = addressOf<float>(y);
  a.count = count;
  a.alpha = alpha;
  return device.launch("addScaled", {.gridX = ctasOf(count, 1 << 20), .threads = kThreads}, a,
                       std::to_string(count) + " elements");
}

Status addToDiagonal(Device& device, DeviceAddress h, size_t size, float value) {
  AddToDiagonalArguments a{};
  a.h = addressOf<float>(h);
  a.size = uint32_t(size);
  a.value = value;
  return device.launch("addToDiagonal", {.gridX = ctasOf(size, 1 << 20), .threads = kThreads}, a,
                       std::to_string(size) + " channels");
}

Status clearColumns(Device& device, DeviceAddress w, size_t rows, const std::vector<uint8_t>& flags) {
  if (std::find(flags.begin(), flags.end(), 1) == flags.end()) return Status::success();
  DeviceBuffer<uint8_t> onDevice;
  SLIM_RETURN_IF_ERROR(device.upload(flags.data(), flags.size(), "dead channels", onDevice));
  ClearColumnsArguments a{};
  a.w = addressOf<float>(w);
  a.flags = addressOf<const uint8_t>(onDevice.address());
  a.rows = rows;
  a.columns = uint32_t(flags.size());
  return device.launch("clearColumns",
                       {.gridX = ctasOf(flags.size(), 1 << 20),
                        .gridY = unsigned(std::min<size_t>(rows, 64)),
                        .threads = kThreads},
                       a,
                       std::string("[") + std::to_string(rows) + ", " + std::to_string(flags.size()) + "]");
}

Status innerProduct(Device& device, size_t rows, size_t cols, DeviceAddress a, DeviceAddress b, double& out) {
  DeviceBuffer<double> sums;
  SLIM_RETURN_IF_ERROR(device.allocate(rows, "sums of rows", sums));
  SLIM_RETURN_IF_ERROR(rowDots(device, rows, cols, a, b, sums.address()));
  std::vector<double> host(rows);
  SLIM_RETURN_IF_ERROR(device.copyToHost(host.data(), sums.address(), sums.bytes()));
  out = std::accumulate(host.begin(), host.end(), 0.0);
  return Status::success();
}

}  // namespace slim::cuda
