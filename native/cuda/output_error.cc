#include "cuda/output_error.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "cuda/matrix_rows.h"
#include "cuda/multiply.h"

namespace slim::cuda {

Status relativeOutputError(Device& device, DeviceAddress w, DeviceAddress q, size_t rows, size_t cols,
                           DeviceAddress h, double& out) {
  constexpr size_t kTile = 2048;  // rows at a time, which bounds the memory of their products
  const size_t tile = std::min(kTile, rows);
  DeviceBuffer<float> difference, product;
  DeviceBuffer<double> traces;  // of the original rows, then of the differences
  SLIM_RETURN_IF_ERROR(device.allocate(tile * cols, "errors of weights", difference));
  SLIM_RETURN_IF_ERROR(device.allocate(tile * cols, "products with a Hessian", product));
  SLIM_RETURN_IF_ERROR(device.allocate(2 * rows, "energies of rows", traces));
  const auto trace = [&](DeviceAddress d, size_t count, size_t place) {  // d_r H d_rᵀ for `count` rows
    SLIM_RETURN_IF_ERROR(multiply(device, count, cols, cols, DeviceOperand::rowMajor(d, cols),
                                  DeviceOperand::rowMajor(h, cols), product.address(), cols));
    return rowDots(device, count, cols, d, product.address(), traces.address() + place * sizeof(double));
  };
  for (size_t first = 0; first < rows; first += tile) {
    const size_t count = std::min(tile, rows - first), offset = first * cols * sizeof(float);
    SLIM_RETURN_IF_ERROR(trace(w + offset, count, first));
    SLIM_RETURN_IF_ERROR(
        copyRows(device, count, cols, {w + offset, cols}, {q + offset, cols}, {difference.address(), cols}));
    SLIM_RETURN_IF_ERROR(trace(difference.address(), count, rows + first));
  }
  std::vector<double> energies(2 * rows);
  SLIM_RETURN_IF_ERROR(device.copyToHost(energies.data(), traces.address(), traces.bytes()));
  const auto middle = energies.begin() + std::ptrdiff_t(rows);
  const double energy = std::accumulate(energies.begin(), middle, 0.0);
  const double error = std::accumulate(middle, energies.end(), 0.0);
  out = energy > 0 ? std::sqrt(std::max(error, 0.0) / energy) : 0.0;
  return Status::success();
}

}  // namespace slim::cuda
