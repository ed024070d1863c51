#include "decoder/linear.h"

#include <algorithm>

namespace slim {

Status Weight::check(const std::string& role, size_t expectedRows, size_t expectedCols) const {
  const auto shape = [](size_t r, size_t c) {
    return std::string("[").append(std::to_string(r)).append(", ").append(std::to_string(c)).append("]");
  };
  if (!*this)
    return Status::invalidArgument(role, "a weight " + shape(expectedRows, expectedCols), "nothing");
  if (dense && (dense->shape().size() != 2 || !isFloat(dense->dtype())))
    return Status::invalidArgument(role, "a matrix of F32, F16 or BF16", describeShape(*dense),
                                   dense->shape().size() == 2 ? "Convert it with convertTensor first" : "");
  if (rows != expectedRows || cols != expectedCols)
    return Status::invalidArgument(role, "shape " + shape(expectedRows, expectedCols), shape(rows, cols));
  return Status::success();
}

Status readVector(const TensorPtr& tensor, const std::string& role, size_t length, std::vector<float>& out) {
  if (tensor->shape().size() != 1 || tensor->cols() != length || !isFloat(tensor->dtype())) {
    return Status::invalidArgument(role, "a vector of " + std::to_string(length) + " F32, F16 or BF16",
                                   describeShape(*tensor));
  }
  out.resize(length);
  readRow(tensor->dtype(), tensor->data(), 0, length, out.data());
  return Status::success();
}

void Linear::apply(ThreadPool& pool, size_t tokens, const float* x, size_t xStride, float* y, size_t yStride,
                   bool accumulate) const {
  if (!bias.empty()) {  // the product is accumulated onto the bias: no second pass over y
    constexpr size_t kRows = 32;
    pool.parallelFor((tokens + kRows - 1) / kRows, [&](size_t tile, int) {
      for (size_t t = tile * kRows; t < std::min(tokens, (tile + 1) * kRows); ++t) {
        float* row = y + t * yStride;
        if (!accumulate)
          std::copy(bias.begin(), bias.end(), row);
        else
          for (size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
      }
    });
  }
  GemmOptions options;
  options.accumulate = accumulate || !bias.empty();
  gemm(pool, tokens, weight.rows, weight.cols, Operand::rowMajor(x, xStride), weight.operand(), y, yStride,
       options);
}

}  // namespace slim
