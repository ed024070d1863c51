// The quantizers of one row of a group, by one warp: slim::GroupFit (quant/quantizer.h) on the device.
//
// Lanes share the candidates of a search, not the weights: lane l tries candidates l, l + 32, … over all
// weights, which it reads from shared memory, four at a time, as every lane does (a broadcast). Counted for a
// 2-bit group of 128: SQC 101 candidates in 4 rounds of 128 · 33 instructions, the wide search 136 in 5
// rounds of 128 · 8. With weights shared instead, every candidate would cost 4 · 33 (4 · 8), 10 more for the
// sum over the warp, and some 40 for its divisions, which all lanes would do alike: 1.1 and 2.2 times as
// much, and more for smaller groups.
//
// So a loss is summed up column after column, and every operation is IEEE's (fused where the CPU fuses): the
// choice is that of the CPU's vector kernels, bit for bit. Exceptions: the mean of a 1-bit group and the
// least-squares scales of the wide search, whose sums over the columns the lanes share (float64 and float32).
#pragma once
#include "core/polynomials.h"
#include "cuda/kernels/loads.cuh"
#include "quant/fit_constants.h"

namespace slim::cuda {

constexpr float kRounder = 12582912.0f;  // 1.5 · 2^23: adding it rounds, ties to even
constexpr uint32_t kWarp = 0xffffffffu;

/// w ≈ scale · (code − offset), or, for one bit, w ≈ offset + scale · (code ? 1 : −1).
struct RowFit {
  float scale, offset;
};

template <size_t n>
struct FactorTable {
  float values[n];
};
template <size_t n>
constexpr FactorTable<n> tableOf(const std::array<float, n>& factors) {
  FactorTable<n> table{};
  for (size_t i = 0; i < n; ++i) table.values[i] = factors[i];
  return table;
}
constexpr uint32_t kWideFactorCount = uint32_t(kWideFactors.size());
// In global memory: lanes read different ones at once, which constant memory would serve one by one.
__device__ const FactorTable<kSearchCandidates> searchFactors = tableOf(kSearchFactors);
__device__ const FactorTable<kWideFactorCount> wideFactors = tableOf(kWideFactors);

__device__ __forceinline__ float roundHalfEven(float x) { return (x + kRounder) - kRounder; }

/// A row of a group, in shared memory: both pointers on 16 bytes. `costs` are for Quantizer::Wide alone.
struct GroupRow {
  const float *weights, *costs;
  int width;
};

/// term(w_j) for all columns in order.
template <typename Term>
__device__ __forceinline__ void forWeights(const GroupRow& row, Term term) {
  int j = 0;
  for (; j + 4 <= row.width; j += 4) {
    const float4 w = *reinterpret_cast<const float4*>(row.weights + j);
    term(w.x), term(w.y), term(w.z), term(w.w);
  }
  for (; j < row.width; ++j) term(row.weights[j]);
}
/// term(w_j, h_j) for all columns in order.
template <typename Term>
__device__ __forceinline__ void forWeightsAndCosts(const GroupRow& row, Term term) {
  int j = 0;
  for (; j + 4 <= row.width; j += 4) {
    const float4 w = *reinterpret_cast<const float4*>(row.weights + j),
                 h = *reinterpret_cast<const float4*>(row.costs + j);
    term(w.x, h.x), term(w.y, h.y), term(w.z, h.z), term(w.w, h.w);
  }
  for (; j < row.width; ++j) term(row.weights[j], row.costs[j]);
}

/// The range of the row; it includes 0, and a group of zeros gets [−1, 1].
struct Range {
  float lo, hi;
};

__device__ __forceinline__ Range rangeOf(const GroupRow& row) {
  float lo = 0, hi = 0;
  for (int j = threadIdx.x % 32; j < row.width; j += 32) {
    lo = fminf(lo, row.weights[j]);
    hi = fmaxf(hi, row.weights[j]);
  }
  lo = fmaxf(-warpMaximum(-lo), -kGreatestBound);
  hi = fminf(warpMaximum(hi), kGreatestBound);
  if (hi - lo < kLeastRange) return {-1, 1};
  return {lo, hi};
}

/// The codes' grid, as levels that stand on top of kRounder, whose addition rounds them.
struct Levels {
  float scale, inverse, lowest, highest;

  __device__ Levels(float scale, float lowest, float maxCode)
      : scale(scale), inverse(1.0f / scale), lowest(lowest), highest(lowest + maxCode) {}
  __device__ float nearest(float w) const {
    return fminf(fmaxf(fmaf(w, inverse, kRounder), lowest), highest);
  }
  __device__ float error(float w) const { return fmaf(kRounder - nearest(w), scale, w); }
};

/// A lane's best candidate so far; no candidate: the first.
struct Best {
  float loss = __int_as_float(0x7f800000);
  uint32_t candidate = 0;
  __device__ void consider(float other, uint32_t index) {
    if (other < loss) loss = other, candidate = index;
  }
  /// The least of all lanes, of equals the first. Losses are not negative: as integers they compare alike.
  __device__ void share() {
    const uint32_t least = __reduce_min_sync(kWarp, __float_as_uint(loss));
    candidate = __reduce_min_sync(kWarp, __float_as_uint(loss) == least ? candidate : ~0u);
    loss = __uint_as_float(least);
  }
};

/// |e|^2.4 = e² · 2^(0.2·log2 e²), as powSearchNorm of cpu/scale_search.inl.
static_assert(kSearchNorm == 2.4f);
__device__ __forceinline__ float powSearchNorm(float e) {
  const float square = fmaf(e, e, 0x1p-100f);
  const uint32_t bits = __float_as_uint(square);
  const float t = __uint_as_float((bits & 0x7fffffu) | 0x3f800000u) - 1.0f;
  const float exponent = __uint_as_float((bits >> 23) | 0x4b000000u) - (0x1p23f + 127.0f);
  using L = Log2Polynomial;
  float y = fmaf(L::k5, t, L::k4);
  y = fmaf(y, t, L::k3);
  y = fmaf(y, t, L::k2);
  y = fmaf(y, t, L::k1);
  y = fmaf(y, t, L::k0);
  const float log = fmaf(y, t, exponent), rounded = fmaf(log, 0.2f, kRounder);
  const float f = fmaf(log, 0.2f, kRounder - rounded);
  using E = Exp2Polynomial;
  float root = fmaf(E::k5, f, E::k4);
  root = fmaf(root, f, E::k3);
  root = fmaf(root, f, E::k2);
  root = fmaf(root, f, E::k1);
  root = fmaf(root, f, E::k0);
  root = fmaf(root, f, 1.0f);
  return square * __uint_as_float(__float_as_uint(root) + (__float_as_uint(rounded) << 23));
}

/// The scale that loses least of |e|^2.4 (quant/scale_search.h).
__device__ __forceinline__ RowFit searchScale(const GroupRow& row, Range range, float maxCode) {
  const auto levelsOf = [&](uint32_t candidate) {
    const float p = searchFactors.values[candidate], low = __fmul_rn(p, range.lo);
    const float scale = __fsub_rn(__fmul_rn(p, range.hi), low) / maxCode;
    return Levels(scale, __fadd_rn(low / scale, kRounder), maxCode);
  };
  Best best;
  for (uint32_t k = threadIdx.x % 32; k < kSearchCandidates; k += 32) {
    const Levels levels = levelsOf(k);
    float loss = 0;
    forWeights(row, [&](float w) { loss = __fadd_rn(loss, powSearchNorm(levels.error(w))); });
    best.consider(loss, k);
  }
  best.share();
  const Levels levels = levelsOf(best.candidate);
  return {levels.scale, kRounder - levels.lowest};
}

/// The zero point that the wide search tries first, and the number that it tries (ZeroRange of
/// quant/wide_scale_search.h).
__device__ __forceinline__ int firstZero(Range range, int maxCode) {
  if (maxCode < 16) return 0;
  const int own = __float2int_rn(-range.lo / ((range.hi - range.lo) / float(maxCode)));
  return min(max(own - kNearZeros / 2, 0), maxCode + 1 - kNearZeros);
}
__device__ __forceinline__ int triedZeros(int maxCode) { return maxCode < 16 ? maxCode + 1 : kNearZeros; }

/// The scale and zero point that lose least of h e² (quant/wide_scale_search.h).
__device__ __forceinline__ RowFit searchWideScale(const GroupRow& row, Range range, int maxCode) {
  const float spread = (range.hi - range.lo) / float(maxCode);
  constexpr uint32_t ofBase = kWideFactorCount, ofZero = 2 * ofBase;
  const int first = firstZero(range, maxCode);
  const auto fitOf = [&](uint32_t candidate) -> RowFit {
    const float zero = float(first + int(candidate / ofZero)), rest = float(maxCode) - zero;
    const float above = rest > 0 ? range.hi / rest : 0.0f, below = zero > 0 ? -range.lo / zero : 0.0f;
    const float base = candidate % ofZero < ofBase ? fmaxf(above, below) : spread;
    return {__fmul_rn(base, wideFactors.values[candidate % ofBase]), zero};
  };
  Best best;
  for (uint32_t k = threadIdx.x % 32; k < uint32_t(triedZeros(maxCode)) * ofZero; k += 32) {
    const RowFit fit = fitOf(k);
    if (!(fit.scale > 0)) continue;
    const Levels levels(fit.scale, kRounder - fit.offset, float(maxCode));
    float loss = 0;
    forWeightsAndCosts(row, [&](float w, float h) {
      const float e = levels.error(w);
      loss = fmaf(e * h, e, loss);
    });
    best.consider(loss, k);
  }
  best.share();
  if (best.loss == __int_as_float(0x7f800000)) return {spread, 0};
  RowFit fit = fitOf(best.candidate);

  // Least-squares scales: the lanes share the columns, and compare losses that were summed in one order.
  const auto levelsOf = [&](float scale) { return Levels(scale, kRounder - fit.offset, float(maxCode)); };
  const auto lossOf = [&](float scale) {
    const Levels levels = levelsOf(scale);
    float loss = 0;
    for (int j = threadIdx.x % 32; j < row.width; j += 32) {
      const float e = levels.error(row.weights[j]);
      loss = fmaf(e * row.costs[j], e, loss);
    }
    return warpSum(loss);
  };
  float least = lossOf(fit.scale);
  for (int round = 0; round < kLeastSquaresRounds; ++round) {
    const Levels levels = levelsOf(fit.scale);
    float products = 0, squares = 0;
    for (int j = threadIdx.x % 32; j < row.width; j += 32) {
      const float c = levels.nearest(row.weights[j]) - kRounder, cost = c * row.costs[j];
      products = fmaf(cost, row.weights[j], products);
      squares = fmaf(cost, c, squares);
    }
    const float scale = warpSum(products) / warpSum(squares);
    if (!(scale > 0)) break;  // NaN for codes that are all 0
    const float loss = lossOf(scale);
    if (!(loss < least)) break;  // nor would the next round find another scale
    least = loss;
    fit.scale = scale;
  }
  return fit;
}

/// The mean, and the mean magnitude or (Wide, by the columns' costs) mean deviation. Of equal weights the
/// mean alone.
__device__ __forceinline__ RowFit fitOneBit(Quantizer quantizer, const GroupRow& row) {
  const bool wide = quantizer == Quantizer::Wide;
  const int lane = threadIdx.x % 32;
  const auto cost = [&](int j) { return wide ? double(row.costs[j]) : 1.0; };
  double total = 0;
  bool constant = true;
  for (int j = lane; j < row.width; j += 32) {
    total += cost(j);
    constant &= row.weights[j] == row.weights[0];
  }
  total = warpSum(total);
  const bool plain = !(total > 0);  // no error costs anything
  const auto mean = [&](auto value) {
    double sum = 0;
    for (int j = lane; j < row.width; j += 32) sum += (plain ? 1.0 : cost(j)) * value(double(row.weights[j]));
    return warpSum(sum) / (plain ? double(row.width) : total);
  };
  const double center = mean([](double w) { return w; }), origin = wide ? center : 0.0;
  const float deviation = float(mean([&](double w) { return fabs(w - origin); }));
  return {__all_sync(kWarp, constant) ? 0.0f : deviation, float(center)};
}

/// The fit of one row by a converged warp; the same in all lanes.
__device__ __forceinline__ RowFit fitRow(Quantizer quantizer, int bits, const GroupRow& row) {
  if (bits == 1) return fitOneBit(quantizer, row);
  const int maxCode = (1 << bits) - 1;
  const Range range = rangeOf(row);
  if (quantizer == Quantizer::Sqc) return searchScale(row, range, float(maxCode));
  if (quantizer == Quantizer::Wide) return searchWideScale(row, range, maxCode);
  const float scale = (range.hi - range.lo) / float(maxCode);
  return {scale, roundHalfEven(-range.lo / scale)};
}

/// Scale and mean become the float16 values that are stored (GroupFit::roundToStored).
__device__ __forceinline__ RowFit roundToStored(RowFit fit, int bits) {
  const auto stored = [](float x) { return __half2float(__float2half_rn(x)); };
  fit.scale = fminf(fmaxf(stored(fit.scale), bits == 1 ? 0.0f : kLeastHalf), kGreatestHalf);
  if (bits == 1) fit.offset = fminf(fmaxf(stored(fit.offset), -kGreatestHalf), kGreatestHalf);
  return fit;
}

/// What one weight becomes (GroupFit::quantize).
struct QuantizedWeight {
  float value;
  uint32_t code;
};

__device__ __forceinline__ QuantizedWeight quantize(float w, RowFit fit, int bits) {
  if (bits == 1) {
    const bool above = w >= fit.offset;
    return {fit.offset + (above ? fit.scale : -fit.scale), above};
  }
  const float maxCode = float((1 << bits) - 1);
  const float level = roundHalfEven(fminf(fmaxf(w / fit.scale, -fit.offset), maxCode - fit.offset));
  // The code stands in the low bits of the sum; a caller that subtracts the value must not fuse its product.
  return {__fmul_rn(fit.scale, level), __float_as_uint(level + fit.offset + 0x1p23f) & 0xffu};
}

}  // namespace slim::cuda
