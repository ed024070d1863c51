// Portable kernels of gemm: a 4 × 8 tile whose loops have constant bounds, so that any compiler keeps the
// sums in vector registers.
#include <algorithm>

#include "cpu/gemm_kernels.h"

namespace slim {
namespace {

constexpr size_t kMr = 4, kNr = 8;

template <int kRows>
void microKernel(size_t k, const float* a, const float* b, float* c, size_t ldc, size_t cols, float alpha,
                 bool accumulate) {
  float sum[kRows][kNr] = {};
  for (size_t p = 0; p < k; ++p, a += kMr, b += kNr)
    for (int i = 0; i < kRows; ++i)
      for (size_t j = 0; j < kNr; ++j) sum[i][j] += a[i] * b[j];
  for (int i = 0; i < kRows; ++i)
    for (size_t j = 0; j < cols; ++j)
      c[i * ldc + j] = alpha * sum[i][j] + (accumulate ? c[i * ldc + j] : 0.0f);
}

template <size_t kLanes>
void packLanes(const float* source, size_t stride, size_t rows, size_t k, size_t width, float* panel) {
  for (size_t p = 0; p < k; ++p)
    for (size_t r = 0; r < kLanes; ++r) panel[p * width + r] = r < rows ? source[r * stride + p] : 0.0f;
}

void packRows(const float* source, size_t stride, size_t rows, size_t k, size_t lanes, size_t width,
              float* panel) {
  const auto pack = lanes == kMr ? packLanes<kMr> : packLanes<kNr>;
  pack(source, stride, rows, k, width, panel);
}

void packColumns(const float* source, size_t stride, size_t rows, size_t k, size_t width, float* panel) {
  for (size_t p = 0; p < k; ++p)
    for (size_t r = 0; r < width; ++r) panel[p * width + r] = r < rows ? source[p * stride + r] : 0.0f;
}

// Eight partial sums a product: the order of additions that a vector unit has, and no dependency between
// them.
template <DType kType, int kA, int kB>
void dotKernel(size_t k, const float* a, size_t lda, const void* b, size_t ldb, float* sums) {
  constexpr size_t kLanes = 8;
  for (int i = 0; i < kA; ++i)
    for (int j = 0; j < kB; ++j) {
      const float* x = a + i * lda;
      const auto y = [&](size_t index) { return elementAt<kType>(b, j * ldb + index); };
      float lane[kLanes] = {};
      size_t p = 0;
      for (; p + kLanes <= k; p += kLanes)
        for (size_t l = 0; l < kLanes; ++l) lane[l] += x[p + l] * y(p + l);
      for (size_t l = 0; p < k; ++p, ++l) lane[l] += x[p] * y(p);
      for (size_t half = kLanes / 2; half > 0; half /= 2)
        for (size_t l = 0; l < half; ++l) lane[l] += lane[l + half];
      sums[i * kDotRows + j] += lane[0];
    }
}

template <DType kType, int kA, size_t... kB>
constexpr std::array<DotKernel, kDotRows> dotKernelsOfRows(std::index_sequence<kB...>) {
  return {dotKernel<kType, kA, int(kB) + 1>...};
}
template <DType kType, size_t... kA>
constexpr DotKernels dotKernelsOf(std::index_sequence<kA...> rows) {
  return {dotKernelsOfRows<kType, int(kA) + 1>(rows)...};
}
template <DType kType>
constexpr DotKernels kDotKernels = dotKernelsOf<kType>(std::make_index_sequence<kDotRows>());

}  // namespace

const GemmKernels kPortableGemm = {
    .mr = kMr,
    .nr = kNr,
    .packLanes = 8,
    .tileRows = 24 * kMr,
    .tileCols = 16 * kNr,
    .micro = {microKernel<1>, microKernel<2>, microKernel<3>, microKernel<4>},
    .dot = kDotKernels<DType::F32>,
    .dotHalf = kDotKernels<DType::F16>,
    .dotBfloat = kDotKernels<DType::BF16>,
    .packRows = packRows,
    .packColumns = packColumns,
};

}  // namespace slim
