#include "quant/output_error.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/gemm.h"

namespace slim {

Status relativeOutputError(const float* w, const PackedMatrix& quantized, const float* h, ThreadPool& pool,
                           const CancelFlag& cancelled, double& out) {
  constexpr size_t kTile = 256;  // rows at a time
  const size_t rows = quantized.rows(), cols = quantized.cols();
  std::vector<float> difference(std::min(kTile, rows) * cols), product(std::min(kTile, rows) * cols);
  std::vector<double> energy(rows), error(rows);
  const auto traces = [&](const float* d, size_t count, double* trace) {  // d_r H d_rᵀ for `count` rows
    gemm(pool, count, cols, cols, Operand::rowMajor(d, cols), Operand::rowMajor(h, cols), product.data(),
         cols);
    pool.parallelFor(count, [&](size_t r, int) {
      double sum = 0;
      for (size_t j = 0; j < cols; ++j) sum += double(d[r * cols + j]) * product[r * cols + j];
      trace[r] = sum;
    });
  };
  for (size_t first = 0; first < rows; first += kTile) {
    if (cancelled.load()) return Status::aborted();
    const size_t count = std::min(kTile, rows - first);
    const float* original = w + first * cols;
    traces(original, count, energy.data() + first);
    pool.parallelFor(count, [&](size_t r, int) {
      float* row = difference.data() + r * cols;
      quantized.read(first + r, 0, cols, row);
      for (size_t j = 0; j < cols; ++j) row[j] = original[r * cols + j] - row[j];
    });
    traces(difference.data(), count, error.data() + first);
  }
  double errorSum = 0, energySum = 0;
  for (size_t r = 0; r < rows; ++r) {
    errorSum += error[r];
    energySum += energy[r];
  }
  out = energySum > 0 ? std::sqrt(std::max(errorSum, 0.0) / energySum) : 0.0;
  return Status::success();
}

}  // namespace slim
