#include <vector>

#include "cpu/gemm.h"

namespace slim {

void readOperandRow(const Operand& o, size_t row, size_t start, size_t count, float* out) {
  switch (o.layout) {
    case Operand::Layout::RowMajor:
      return readRow(o.dtype, static_cast<const uint8_t*>(o.data) + dtypeBytes(o.dtype, row * o.stride),
                     start, count, out);
    case Operand::Layout::ColumnMajor:
      for (size_t i = 0; i < count; ++i)
        out[i] = static_cast<const float*>(o.data)[(start + i) * o.stride + row];
      return;
    case Operand::Layout::Reader:
      return o.reader->read(row, start, count, out);
  }
}

void gemmReference(size_t m, size_t n, size_t k, const Operand& a, const Operand& b, float* c, size_t ldc,
                   const GemmOptions& options) {
  std::vector<float> rowA(k), rowsB(n * k);
  for (size_t j = 0; j < n; ++j) readOperandRow(b, j, 0, k, rowsB.data() + j * k);
  for (size_t i = 0; i < m; ++i) {
    readOperandRow(a, i, 0, k, rowA.data());
    for (size_t j = options.upperOnly ? i : 0; j < n; ++j) {
      double sum = 0;
      for (size_t t = 0; t < k; ++t) sum += double(rowA[t]) * rowsB[j * k + t];
      float& out = c[i * ldc + j];
      out = float(options.alpha * sum + (options.accumulate ? out : 0.0f));
    }
  }
}

}  // namespace slim
