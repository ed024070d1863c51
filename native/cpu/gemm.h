// Dense float32 matrix products: one blocked micro-kernel, many packers (one per source format).
#pragma once
#include <cstddef>

#include "core/status.h"
#include "core/tensor.h"
#include "core/thread_pool.h"

namespace slim {

/// Rows that are decoded on the fly, e.g. a packed matrix.
class RowReader {
 public:
  virtual ~RowReader() = default;
  /// Elements [start, start + count) of a row as float32.
  virtual void read(size_t row, size_t start, size_t count, float* out) const = 0;
};

/// A logical matrix [rows, k], read as float32.
struct Operand {
  enum class Layout { RowMajor, ColumnMajor, Reader } layout = Layout::RowMajor;
  DType dtype = DType::F32;  // RowMajor only
  /// Element (r, k) is RowMajor data[r * stride + k], ColumnMajor data[k * stride + r].
  const void* data = nullptr;
  size_t stride = 0;  // in elements
  const RowReader* reader = nullptr;

  static Operand rowMajor(const float* data, size_t stride) {
    return {Layout::RowMajor, DType::F32, data, stride, nullptr};
  }
  static Operand columnMajor(const float* data, size_t stride) {
    return {Layout::ColumnMajor, DType::F32, data, stride, nullptr};
  }
  static Operand tensor(const Tensor& t) {
    return {Layout::RowMajor, t.dtype(), t.data(), t.cols(), nullptr};
  }
  static Operand rows(const RowReader& r) { return {Layout::Reader, DType::F32, nullptr, 0, &r}; }
};

/// Elements [start, start + count) of a row of an operand as float32 (start a multiple of 32).
void readOperandRow(const Operand& operand, size_t row, size_t start, size_t count, float* out);

struct GemmOptions {
  float alpha = 1.0f;
  bool accumulate = false;  // C += alpha·A·Bᵀ instead of C = alpha·A·Bᵀ
  bool upperOnly = false;   // only tiles that touch j ≥ i are written (C square): for symmetric products
};

/// C[m, n] = alpha · A[m, k] · B[n, k]ᵀ (+ C). C is row-major float32 with row stride ldc ≥ n and does not
/// overlap A or B. Float32 accumulation; the bits of C depend on the shape and the instruction set, never on
/// the threads.
void gemm(ThreadPool& pool, size_t m, size_t n, size_t k, const Operand& a, const Operand& b, float* c,
          size_t ldc, const GemmOptions& options = {});

/// c [x.rows(), columns] = x · Bᵀ, some hundred rows at a time, between which it can be cancelled.
Status multiply(const Tensor& x, const Operand& b, size_t columns, ThreadPool& pool,
                const CancelFlag& cancelled, Tensor& c);

/// The same product by plain loops in float64: the oracle of tests.
void gemmReference(size_t m, size_t n, size_t k, const Operand& a, const Operand& b, float* c, size_t ldc,
                   const GemmOptions& options = {});

}  // namespace slim
