// AVX2 + FMA kernels of gemm: a 6 × 16 tile, 12 accumulators, two loads of B and six broadcasts of A for 12
// FMAs.
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>

#include "cpu/gemm_kernels.h"

#define SLIM_AVX2 __attribute__((target("avx2,fma,f16c")))

namespace slim {
namespace {

constexpr size_t kMr = 6, kNr = 16;

template <int kRows>
SLIM_AVX2 void microKernel(size_t k, const float* a, const float* b, float* c, size_t ldc, size_t cols,
                           float alpha, bool accumulate) {
  __m256 sum[kRows][2];
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    sum[i][0] = sum[i][1] = _mm256_setzero_ps();
    _mm_prefetch(c + i * ldc, _MM_HINT_T0);  // the tile of C is needed only after k steps
    _mm_prefetch(c + i * ldc + 15, _MM_HINT_T0);
  }
  for (size_t p = 0; p < k; ++p) {
    const __m256 b0 = _mm256_load_ps(b), b1 = _mm256_load_ps(b + 8);
#pragma GCC unroll 6
    for (int i = 0; i < kRows; ++i) {
      const __m256 ai = _mm256_broadcast_ss(a + i);
      sum[i][0] = _mm256_fmadd_ps(ai, b0, sum[i][0]);
      sum[i][1] = _mm256_fmadd_ps(ai, b1, sum[i][1]);
    }
    a += kMr;
    b += kNr;
  }
  const __m256 scale = _mm256_set1_ps(alpha);
#pragma GCC unroll 6
  for (int i = 0; i < kRows; ++i) {
    float* row = c + i * ldc;
    const __m256 c0 = _mm256_mul_ps(sum[i][0], scale), c1 = _mm256_mul_ps(sum[i][1], scale);
    if (cols >= kNr) {
      _mm256_storeu_ps(row, accumulate ? _mm256_add_ps(c0, _mm256_loadu_ps(row)) : c0);
      _mm256_storeu_ps(row + 8, accumulate ? _mm256_add_ps(c1, _mm256_loadu_ps(row + 8)) : c1);
    } else {
      alignas(32) float edge[kNr];
      _mm256_store_ps(edge, c0);
      _mm256_store_ps(edge + 8, c1);
      for (size_t j = 0; j < cols; ++j) row[j] = accumulate ? edge[j] + row[j] : edge[j];
    }
  }
}

// x[r][p] → x[p][r], 8 × 8.
SLIM_AVX2 inline void transpose8(__m256 (&x)[8]) {
  __m256 t[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(x[i], x[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 2
  for (int i = 0; i < 8; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m256d low = _mm256_castps_pd(t[i + j]), high = _mm256_castps_pd(t[i + j + 2]);
      x[i + 2 * j] = _mm256_castpd_ps(_mm256_unpacklo_pd(low, high));
      x[i + 2 * j + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(low, high));
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x20);
    t[i + 4] = _mm256_permute2f128_ps(x[i], x[i + 4], 0x31);
  }
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) x[i] = t[i];
}

// The hardware prefetchers see only short runs of many rows: lines are asked for this many floats ahead, in
// these rows and then in the rows that are packed next (17 ms → 5 ms for 4096 × 4096).
constexpr size_t kPrefetchAhead = 64;

template <size_t kLanes>
SLIM_AVX2 void packLanes(const float* source, size_t stride, size_t rows, size_t k, size_t width,
                         float* panel) {
  rows = std::min(rows, kLanes);
  size_t p = 0;
  for (; p + 8 <= k; p += 8) {
    __m256 x[8];
    if (rows == kLanes) {
      const size_t ahead = p + kPrefetchAhead < k ? kPrefetchAhead : kLanes * stride + kPrefetchAhead - k;
#pragma GCC unroll 8
      for (size_t r = 0; r < kLanes; ++r) _mm_prefetch(source + r * stride + p + ahead, _MM_HINT_T0);
    }
#pragma GCC unroll 8
    for (size_t r = 0; r < 8; ++r)
      x[r] = r < rows ? _mm256_loadu_ps(source + r * stride + p) : _mm256_setzero_ps();
    transpose8(x);
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; ++i) {
      float* to = panel + (p + i) * width;
      if constexpr (kLanes == 8) {
        _mm256_storeu_ps(to, x[i]);
      } else {  // six lanes; a masked store would be microcoded on Zen
        _mm_storeu_ps(to, _mm256_castps256_ps128(x[i]));
        _mm_storel_pi(reinterpret_cast<__m64*>(to + 4), _mm256_extractf128_ps(x[i], 1));
      }
    }
  }
  for (; p < k; ++p)
    for (size_t r = 0; r < kLanes; ++r) panel[p * width + r] = r < rows ? source[r * stride + p] : 0.0f;
}

SLIM_AVX2 void packRows(const float* source, size_t stride, size_t rows, size_t k, size_t lanes, size_t width,
                        float* panel) {
  const auto pack = lanes == kMr ? packLanes<kMr> : packLanes<8>;
  pack(source, stride, rows, k, width, panel);
}

SLIM_AVX2 void packColumns(const float* source, size_t stride, size_t rows, size_t k, size_t width,
                           float* panel) {
  for (size_t p = 0; p < k; ++p, source += stride, panel += width) {
    if (rows >= width && width == kNr) {
      _mm256_storeu_ps(panel, _mm256_loadu_ps(source));
      _mm256_storeu_ps(panel + 8, _mm256_loadu_ps(source + 8));
    } else {
      for (size_t r = 0; r < width; ++r) panel[r] = r < rows ? source[r] : 0.0f;
    }
  }
}

SLIM_AVX2 inline float horizontalSum(__m256 x) {
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

// A long stream of rows that lie side by side is asked for this many bytes ahead.
constexpr size_t kStreamAhead = 8192;

/// Eight elements from `index` on as float32.
template <DType kType>
SLIM_AVX2 inline __attribute__((always_inline)) __m256 loadElements(const void* data, size_t index) {
  if constexpr (kType == DType::F32) {
    const float* p = static_cast<const float*>(data) + index;
    _mm_prefetch(reinterpret_cast<const char*>(p) + kStreamAhead, _MM_HINT_T0);
    return _mm256_loadu_ps(p);
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(data) + index;
    _mm_prefetch(reinterpret_cast<const char*>(p) + kStreamAhead, _MM_HINT_T0);
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    if constexpr (kType == DType::F16) return _mm256_cvtph_ps(bits);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
}

template <DType kType, int kA, int kB>
SLIM_AVX2 void dotKernel(size_t k, const float* a, size_t lda, const void* b, size_t ldb, float* sums) {
  __m256 sum[kA][kB];
#pragma GCC unroll 4
  for (int i = 0; i < kA; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kB; ++j) sum[i][j] = _mm256_setzero_ps();
  size_t p = 0;
  for (; p + 8 <= k; p += 8) {
    __m256 x[kA];
#pragma GCC unroll 4
    for (int i = 0; i < kA; ++i) x[i] = _mm256_loadu_ps(a + i * lda + p);
#pragma GCC unroll 4
    for (int j = 0; j < kB; ++j) {
      const __m256 y = loadElements<kType>(b, j * ldb + p);
#pragma GCC unroll 4
      for (int i = 0; i < kA; ++i) sum[i][j] = _mm256_fmadd_ps(x[i], y, sum[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kA; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kB; ++j) {
      float total = horizontalSum(sum[i][j]);
      for (size_t t = p; t < k; ++t) total += a[i * lda + t] * elementAt<kType>(b, j * ldb + t);
      sums[i * kDotRows + j] += total;
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

const GemmKernels kAvx2Gemm = {
    .mr = kMr,
    .nr = kNr,
    .packLanes = 8,
    .tileRows = 16 * kMr,
    .tileCols = 10 * kNr,
    .micro = {microKernel<1>, microKernel<2>, microKernel<3>, microKernel<4>, microKernel<5>, microKernel<6>},
    .dot = kDotKernels<DType::F32>,
    .dotHalf = kDotKernels<DType::F16>,
    .dotBfloat = kDotKernels<DType::BF16>,
    .packRows = packRows,
    .packColumns = packColumns,
};

}  // namespace slim
#endif
