// What gemm needs of an instruction set: a micro-kernel over packed panels, packers, and a dot-product
// kernel. A panel holds `width` rows of an operand with k running slowest: panel[p * width + r]. A's panels
// are mr wide, B's are nr wide; rows beyond the operand are zeros.
#pragma once
#include <cstddef>

namespace slim {

/// C[0, rows) × [0, cols) = alpha · A·Bᵀ (+ C): one A panel times one B panel, rows ≤ mr, cols ≤ nr.
using MicroKernel = void (*)(size_t k, const float* a, const float* b, float* c, size_t ldc, size_t cols,
                             float alpha, bool accumulate);

/// sums[i * kDotRows + j] += a row i · b row j over k elements, for a fixed number of rows of each.
using DotKernel = void (*)(size_t k, const float* a, size_t lda, const float* b, size_t ldb, float* sums);

constexpr size_t kMaxPanelRows = 12;  // the largest mr
constexpr size_t kDotRows = 4;        // the dot kernel takes 1 … 4 rows of each operand

struct GemmKernels {
  size_t mr, nr;
  size_t packLanes;           // rows that one packRows call takes; nr is a multiple, mr at most one
  size_t tileRows, tileCols;  // of C, the work of one task: its B panels stay in the second-level cache
  MicroKernel micro[kMaxPanelRows];   // by rows − 1
  DotKernel dot[kDotRows][kDotRows];  // by rows of a − 1, rows of b − 1
  /// Row-major source: min(lanes, rows) rows of k floats into lanes [0, lanes) of a panel.
  void (*packRows)(const float* source, size_t stride, size_t rows, size_t k, size_t lanes, size_t width,
                   float* panel);
  /// Column-major source (element (r, p) at source[p * stride + r]): a whole panel.
  void (*packColumns)(const float* source, size_t stride, size_t rows, size_t k, size_t width, float* panel);
};

extern const GemmKernels kPortableGemm;
#if defined(__x86_64__)
extern const GemmKernels kAvx2Gemm;
extern const GemmKernels kAvx512Gemm;
#endif

const GemmKernels& activeGemmKernels();

}  // namespace slim
