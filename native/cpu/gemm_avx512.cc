// AVX-512 kernels of gemm: a 12 × 32 tile, 24 accumulators, two loads of B and twelve broadcasts of A for 24
// FMAs.
#if defined(__x86_64__)
// GCC 12's own intrinsics read a register before it is set, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <algorithm>

#include "cpu/gemm_kernels.h"

#define SLIM_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")))

namespace slim {
namespace {

constexpr size_t kMr = 12, kNr = 32;

SLIM_AVX512 inline __mmask16 firstLanes(size_t count) {
  return count >= 16 ? __mmask16(0xffff) : __mmask16((1u << count) - 1);
}

template <int kRows>
SLIM_AVX512 void microKernel(size_t k, const float* a, const float* b, float* c, size_t ldc, size_t cols,
                             float alpha, bool accumulate) {
  __m512 sum[kRows][2];
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    sum[i][0] = sum[i][1] = _mm512_setzero_ps();
    _mm_prefetch(c + i * ldc, _MM_HINT_T0);  // the tile of C is needed only after k steps
    _mm_prefetch(c + i * ldc + 16, _MM_HINT_T0);
  }
  for (size_t p = 0; p < k; ++p) {
    const __m512 b0 = _mm512_load_ps(b), b1 = _mm512_load_ps(b + 16);
#pragma GCC unroll 12
    for (int i = 0; i < kRows; ++i) {
      const __m512 ai = _mm512_set1_ps(a[i]);
      sum[i][0] = _mm512_fmadd_ps(ai, b0, sum[i][0]);
      sum[i][1] = _mm512_fmadd_ps(ai, b1, sum[i][1]);
    }
    a += kMr;
    b += kNr;
  }
  const __mmask16 mask0 = firstLanes(cols), mask1 = firstLanes(cols > 16 ? cols - 16 : 0);
  const __m512 scale = _mm512_set1_ps(alpha);
#pragma GCC unroll 12
  for (int i = 0; i < kRows; ++i) {
    float* row = c + i * ldc;
    __m512 c0 = _mm512_mul_ps(sum[i][0], scale), c1 = _mm512_mul_ps(sum[i][1], scale);
    if (accumulate) {
      c0 = _mm512_add_ps(c0, _mm512_maskz_loadu_ps(mask0, row));
      c1 = _mm512_add_ps(c1, _mm512_maskz_loadu_ps(mask1, row + 16));
    }
    _mm512_mask_storeu_ps(row, mask0, c0);
    _mm512_mask_storeu_ps(row + 16, mask1, c1);
  }
}

// x[r][p] → x[p][r], 16 × 16: 32-bit, then 64-bit interleaves within 128-bit lanes, then two rounds of lane
// shuffles.
SLIM_AVX512 inline void transpose16(__m512 (&x)[16]) {
  __m512 t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
      const __m512d low = _mm512_castps_pd(t[i + j]), high = _mm512_castps_pd(t[i + j + 2]);
      x[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      x[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
    // x[4g + c] now holds, in 128-bit lane l, column 4l + c of rows 4g … 4g + 3.
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512 even01 = _mm512_shuffle_f32x4(x[c], x[c + 4], 0x88),
                 odd01 = _mm512_shuffle_f32x4(x[c], x[c + 4], 0xdd);
    const __m512 even23 = _mm512_shuffle_f32x4(x[c + 8], x[c + 12], 0x88),
                 odd23 = _mm512_shuffle_f32x4(x[c + 8], x[c + 12], 0xdd);
    t[c] = _mm512_shuffle_f32x4(even01, even23, 0x88);
    t[c + 8] = _mm512_shuffle_f32x4(even01, even23, 0xdd);
    t[c + 4] = _mm512_shuffle_f32x4(odd01, odd23, 0x88);
    t[c + 12] = _mm512_shuffle_f32x4(odd01, odd23, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) x[i] = t[i];
}

// The hardware prefetchers see only short runs of many rows: lines are asked for this many floats ahead, in
// these rows and then in the rows that are packed next (17 ms → 5 ms for 4096 × 4096).
constexpr size_t kPrefetchAhead = 64;

template <size_t kLanes>
SLIM_AVX512 void packLanes(const float* source, size_t stride, size_t rows, size_t k, size_t width,
                           float* panel) {
  for (size_t p = 0; p < k; p += 16, source += 16, panel += 16 * width) {
    const size_t columns = std::min<size_t>(16, k - p);
    const __mmask16 load = firstLanes(columns);
    __m512 x[16];
    if (rows >= kLanes) {
      const size_t ahead = p + kPrefetchAhead < k ? kPrefetchAhead : kLanes * stride + kPrefetchAhead - k;
#pragma GCC unroll 16
      for (size_t r = 0; r < kLanes; ++r) _mm_prefetch(source + r * stride + ahead, _MM_HINT_T0);
#pragma GCC unroll 16
      for (size_t r = 0; r < 16; ++r)
        x[r] = r < kLanes ? _mm512_maskz_loadu_ps(load, source + r * stride) : _mm512_setzero_ps();
    } else {
#pragma GCC unroll 16
      for (size_t r = 0; r < 16; ++r)
        x[r] = r < rows ? _mm512_maskz_loadu_ps(load, source + r * stride) : _mm512_setzero_ps();
    }
    transpose16(x);
#pragma GCC unroll 16
    for (size_t i = 0; i < 16; ++i)
      if (i < columns) _mm512_mask_storeu_ps(panel + i * width, firstLanes(kLanes), x[i]);
  }
}

SLIM_AVX512 void packRows(const float* source, size_t stride, size_t rows, size_t k, size_t lanes,
                          size_t width, float* panel) {
  const auto pack = lanes == kMr ? packLanes<kMr> : packLanes<16>;
  pack(source, stride, rows, k, width, panel);
}

SLIM_AVX512 void packColumns(const float* source, size_t stride, size_t rows, size_t k, size_t width,
                             float* panel) {
  for (size_t r = 0; r < width; r += 16) {
    const __mmask16 store = firstLanes(width - r),
                    load = firstLanes(rows > r ? std::min(rows, width) - r : 0);
    for (size_t p = 0; p < k; ++p)
      _mm512_mask_storeu_ps(panel + p * width + r, store,
                            _mm512_maskz_loadu_ps(load, source + p * stride + r));
  }
}

// A long stream of rows that lie side by side is asked for this many bytes ahead.
constexpr size_t kStreamAhead = 8192;

/// 16 elements from `index` on as float32, zeros where the mask is not set.
template <DType kType>
SLIM_AVX512 inline __attribute__((always_inline)) __m512 loadElements(const void* data, size_t index,
                                                                      __mmask16 mask) {
  if constexpr (kType == DType::F32) {
    const float* p = static_cast<const float*>(data) + index;
    _mm_prefetch(reinterpret_cast<const char*>(p) + kStreamAhead, _MM_HINT_T0);
    return _mm512_maskz_loadu_ps(mask, p);
  } else {
    const uint16_t* p = static_cast<const uint16_t*>(data) + index;
    _mm_prefetch(reinterpret_cast<const char*>(p) + kStreamAhead, _MM_HINT_T0);
    const __m256i bits = _mm256_maskz_loadu_epi16(mask, p);
    if constexpr (kType == DType::F16) return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
}

template <DType kType, int kA, int kB>
SLIM_AVX512 void dotKernel(size_t k, const float* a, size_t lda, const void* b, size_t ldb, float* sums) {
  __m512 sum[kA][kB];
#pragma GCC unroll 4
  for (int i = 0; i < kA; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kB; ++j) sum[i][j] = _mm512_setzero_ps();
  for (size_t p = 0; p < k; p += 16) {
    const __mmask16 mask = firstLanes(k - p);
    __m512 x[kA];
#pragma GCC unroll 4
    for (int i = 0; i < kA; ++i) x[i] = _mm512_maskz_loadu_ps(mask, a + i * lda + p);
#pragma GCC unroll 4
    for (int j = 0; j < kB; ++j) {
      const __m512 y = loadElements<kType>(b, j * ldb + p, mask);
#pragma GCC unroll 4
      for (int i = 0; i < kA; ++i) sum[i][j] = _mm512_fmadd_ps(x[i], y, sum[i][j]);
    }
  }
#pragma GCC unroll 4
  for (int i = 0; i < kA; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kB; ++j) sums[i * kDotRows + j] += _mm512_reduce_add_ps(sum[i][j]);
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

const GemmKernels kAvx512Gemm = {
    .mr = kMr,
    .nr = kNr,
    .packLanes = 16,
    .tileRows = 8 * kMr,
    .tileCols = 10 * kNr,
    .micro = {microKernel<1>, microKernel<2>, microKernel<3>, microKernel<4>, microKernel<5>, microKernel<6>,
              microKernel<7>, microKernel<8>, microKernel<9>, microKernel<10>, microKernel<11>,
              microKernel<12>},
    .dot = kDotKernels<DType::F32>,
    .dotHalf = kDotKernels<DType::F16>,
    .dotBfloat = kDotKernels<DType::BF16>,
    .packRows = packRows,
    .packColumns = packColumns,
};

}  // namespace slim
#endif
