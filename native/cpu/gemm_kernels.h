// What gemm needs of an instruction set: a micro-kernel over packed panels, packers, and a dot-product
// kernel. A panel holds `width` rows of an operand with k running slowest: panel[p * width + r]. A's panels
// are mr wide, B's are nr wide; rows beyond the operand are zeros.
#pragma once
#include <array>
#include <cstddef>
#include <utility>

#include "core/half.h"
#include "core/tensor.h"

namespace slim {

/// C[0, rows) × [0, cols) = alpha · A·Bᵀ (+ C): one A panel times one B panel, rows ≤ mr, cols ≤ nr.
using MicroKernel = void (*)(size_t k, const float* a, const float* b, float* c, size_t ldc, size_t cols,
                             float alpha, bool accumulate);

/// sums[i * kDotRows + j] += a row i · b row j over k elements, for a fixed number of rows of each. b is of a
/// float dtype, its row stride in elements.
using DotKernel = void (*)(size_t k, const float* a, size_t lda, const void* b, size_t ldb, float* sums);

constexpr size_t kMaxPanelRows = 12;  // the largest mr
constexpr size_t kDotRows = 4;        // the dot kernel takes 1 … 4 rows of each operand

/// One element of a float dtype as float32.
template <DType kType>
inline float elementAt(const void* data, size_t index) {
  if constexpr (kType == DType::F32) return static_cast<const float*>(data)[index];
  const uint16_t bits = static_cast<const uint16_t*>(data)[index];
  return kType == DType::F16 ? halfToFloat(bits) : bfloatToFloat(bits);
}

/// By rows of a − 1, rows of b − 1.
using DotKernels = std::array<std::array<DotKernel, kDotRows>, kDotRows>;

struct GemmKernels {
  size_t mr, nr;
  size_t packLanes;           // rows that one packRows call takes; nr is a multiple, mr at most one
  size_t tileRows, tileCols;  // of C, the work of one task: its B panels stay in the second-level cache
  MicroKernel micro[kMaxPanelRows];  // by rows − 1
  DotKernels dot;                    // of b in F32
  DotKernels dotHalf, dotBfloat;     // in F16, BF16; the same floats come out as of b in F32
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
