#include "decoder/gradients.h"

#include <algorithm>

#include "core/partial_sum.h"
#include "cpu/gemm.h"

namespace slim {

void FisherSums::add(const TapGradients& g, ThreadPool& pool) {
  for (const TapGradients::Layer& layer : g.layers) {
    std::vector<double>& sums = rows_[layer.role];
    sums.resize(layer.rows);
    // A task's columns over all tokens; float32 over a few tokens, then float64.
    constexpr size_t kColumns = 64, kTokens = 16;
    pool.parallelFor((layer.rows + kColumns - 1) / kColumns, [&](size_t task, int) {
      const size_t first = task * kColumns, n = std::min(kColumns, layer.rows - first);
      for (size_t start = 0; start < g.tokens; start += kTokens) {
        float partial[kColumns] = {};
        for (size_t t = start; t < std::min(g.tokens, start + kTokens); ++t) {
          const float* row = g.outputs + t * g.outputStride + layer.firstRow + first;
          for (size_t i = 0; i < n; ++i) partial[i] += row[i] * row[i];
        }
        for (size_t i = 0; i < n; ++i) sums[first + i] += partial[i];
      }
    });
  }
  std::vector<float>& powers = powers_[g.tap];
  powers.resize(tokens_);
  constexpr size_t kTask = 16;
  pool.parallelFor((g.tokens + kTask - 1) / kTask, [&](size_t task, int) {
    for (size_t t = task * kTask; t < std::min(g.tokens, (task + 1) * kTask); ++t) {
      const float* row = g.outputs + t * g.outputStride;
      const double total = partialSum(g.rows, [&](size_t i) { return row[i] * row[i]; });
      powers[g.firstToken + t] = float(total / double(g.rows));
    }
  });
}

void WeightGradients::add(const TapGradients& g, ThreadPool& pool) {
  GemmOptions options;
  options.accumulate = true;
  for (const TapGradients::Layer& layer : g.layers) {
    Matrix& matrix = matrices_[layer.role];
    matrix.rows = layer.rows;
    matrix.cols = g.cols;
    matrix.values.resize(layer.rows * g.cols);
    gemm(pool, layer.rows, g.cols, g.tokens, Operand::columnMajor(g.outputs + layer.firstRow, g.outputStride),
         Operand::columnMajor(g.inputs, g.inputStride), matrix.values.data(), g.cols, options);
  }
}

}  // namespace slim
