// A linear layer y = x · Wᵀ + b whose weight stays in its own format: floats of any width, or rows decoded on
// the fly.
#pragma once
#include <memory>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/tensor.h"
#include "cpu/gemm.h"
#include "cpu/interleaved_matrix.h"
#include "cpu/packed_gemm.h"
#include "decoder/float_buffer.h"
#include "quant/packed_matrix.h"

namespace slim {

/// A matrix [rows, cols]: a dense tensor (F32, F16, BF16) or a packed one.
struct Weight {
  size_t rows = 0, cols = 0;
  TensorPtr dense;
  std::shared_ptr<const PackedMatrix> packed;

  explicit operator bool() const { return dense || packed; }
  static Weight of(TensorPtr tensor) { return {tensor->rows(), tensor->cols(), std::move(tensor), nullptr}; }
  static Weight of(std::shared_ptr<const PackedMatrix> matrix) {
    return {matrix->rows(), matrix->cols(), nullptr, std::move(matrix)};
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

  // What products with int8 activations read; null until interleave(), and of a dense weight.
  std::shared_ptr<const InterleavedMatrix> interleaved;

  explicit operator bool() const { return bool(weight); }
  Status interleave(ThreadPool& pool, const CancelFlag& cancelled);
  /// y [tokens, rows] (row stride yStride) = x [tokens, cols] · Wᵀ + b, or y += that.
  void apply(ThreadPool& pool, size_t tokens, const float* x, size_t xStride, float* y, size_t yStride,
             bool accumulate) const;
  /// dx [tokens, cols] (+)= dy [tokens, rows] · W. Rows of a weight that is not dense F32 are decoded into
  /// `decoded`, some thousand at a time.
  void backward(ThreadPool& pool, size_t tokens, const float* dy, size_t dyStride, float* dx, size_t dxStride,
                bool accumulate, FloatBuffer& decoded) const;
};

/// One of the linear layers that share an input, and where its product goes.
struct LinearOutput {
  const Linear* linear;
  float* y;
  size_t yStride;
  bool accumulate = false;
};

/// By the first layer that a call of applyLinears multiplies in integers: the matrices of the next call (and
/// nothing else of its products), which come from memory in good time then.
using NextProducts = std::unordered_map<const Linear*, std::vector<PackedProduct>>;

/// Memory of inputs in int8, and what is multiplied after them.
struct IntegerInput {
  PackedActivations activations;
  FloatBuffer parts, products;           // of split inputs
  const NextProducts* nextOf = nullptr;  // where the order of calls is known
};

/// Linear::apply of several layers on one input. With `int8`, those that are interleaved take the input in
/// int8: it is rounded once, and all are one parallel loop. `split` keeps the rest of the rounding as a
/// second input, 15 bits in all, for twice the multiplications: nearly free where weights are streamed for
/// one token. Of all inputs q/k/v's and the head's cost most when they are rounded; split, they leave half of
/// the divergence from float32 (SmolLM2-135M at 8 bits: KL 0.0057, then 0.0026; perplexity +0.51 %, then
/// +0.28 %).
void applyLinears(ThreadPool& pool, size_t tokens, const float* x, size_t xStride,
                  std::span<const LinearOutput> outputs, IntegerInput* int8, bool split = false);

}  // namespace slim
