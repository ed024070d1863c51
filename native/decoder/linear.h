// A linear layer y = x · Wᵀ + b whose weight stays in its own format: floats of any width, or rows decoded on
// the fly.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cpu/gemm.h"
#include "decoder/float_buffer.h"

namespace slim {

/// A matrix [rows, cols]: a dense tensor (F32, F16, BF16) or a reader of packed rows.
struct Weight {
  size_t rows = 0, cols = 0;
  TensorPtr dense;
  std::shared_ptr<const RowReader> packed;

  explicit operator bool() const { return dense || packed; }
  static Weight of(TensorPtr tensor) { return {tensor->rows(), tensor->cols(), std::move(tensor), nullptr}; }
  static Weight of(size_t rows, size_t cols, std::shared_ptr<const RowReader> reader) {
    return {rows, cols, nullptr, std::move(reader)};
  }

  Operand operand() const { return dense ? Operand::tensor(*dense) : Operand::rows(*packed); }
  /// One row as float32 [cols].
  void read(size_t row, float* out) const {
    if (dense) return readRow(dense->dtype(), dense->row(row), 0, cols, out);
    packed->read(row, 0, cols, out);
  }
  /// Checks a matrix of this shape and a float dtype; `role` names it in the error.
  Status check(const std::string& role, size_t expectedRows, size_t expectedCols) const;
};

/// A vector of floats (norm weight, bias) as float32; checks its length.
Status readVector(const TensorPtr& tensor, const std::string& role, size_t length, std::vector<float>& out);

struct Linear {
  Weight weight;
  std::vector<float> bias;  // [rows], or empty

  explicit operator bool() const { return bool(weight); }
  /// y [tokens, rows] (row stride yStride) = x [tokens, cols] · Wᵀ + b, or y += that.
  void apply(ThreadPool& pool, size_t tokens, const float* x, size_t xStride, float* y, size_t yStride,
             bool accumulate) const;
  /// dx [tokens, cols] (+)= dy [tokens, rows] · W. Rows of a weight that is not dense F32 are decoded into
  /// `decoded`, some thousand at a time.
  void backward(ThreadPool& pool, size_t tokens, const float* dy, size_t dyStride, float* dx, size_t dxStride,
                bool accumulate, FloatBuffer& decoded) const;
};

}  // namespace slim
