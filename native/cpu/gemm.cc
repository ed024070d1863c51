#include "cpu/gemm.h"

#include <vector>

namespace slim {
namespace {

void readOperandRow(const Operand& o, size_t row, size_t k, float* out) {
  switch (o.layout) {
    case Operand::Layout::RowMajor:
      return readRow(o.dtype, static_cast<const uint8_t*>(o.data) + dtypeBytes(o.dtype, row * o.stride), 0, k, out);
    case Operand::Layout::ColumnMajor:
      for (size_t i = 0; i < k; ++i) out[i] = static_cast<const float*>(o.data)[i * o.stride + row];
      return;
    case Operand::Layout::Reader:
      return o.reader->read(row, 0, k, out);
  }
}

}  // namespace

void gemmReference(size_t m, size_t n, size_t k, const Operand& a, const Operand& b, float* c, size_t ldc,
                   const GemmOptions& options) {
  std::vector<float> rowA(k), rowB(k);
  for (size_t i = 0; i < m; ++i) {
    readOperandRow(a, i, k, rowA.data());
    for (size_t j = options.upperOnly ? i : 0; j < n; ++j) {
      readOperandRow(b, j, k, rowB.data());
      double sum = 0;
      for (size_t t = 0; t < k; ++t) sum += double(rowA[t]) * rowB[t];
      float& out = c[i * ldc + j];
      out = float(options.alpha * sum + (options.accumulate ? out : 0.0f));
    }
  }
}

void gemm(ThreadPool&, size_t m, size_t n, size_t k, const Operand& a, const Operand& b, float* c, size_t ldc,
          const GemmOptions& options) {
  gemmReference(m, n, k, a, b, c, ldc, options);
}

const char* gemmInstructionSet() { return "portable"; }

}  // namespace slim
