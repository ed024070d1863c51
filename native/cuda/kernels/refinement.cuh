// Coordinate descent on the codes and scales of one group (quant/refinement.h), a warp a few rows.
//
// A lane owns every 32nd column. Between two moves of codes the gradient stands still, so all 32 lanes decide
// on their columns at once, and the first of them that moves is next: a row costs as many steps as codes that
// move, a tenth of its columns after GPTQ.
#pragma once
#include <cuda_fp16.h>

#include "cuda/kernels/loads.cuh"
#include "cuda/kernels/refinement_arguments.h"

namespace slim::cuda {

/// kRows rows of a group of up to 32 · kSlots columns: a lane's column of slot k is 32 k + lane.
template <int kSlots, int kRows>
class GroupDescent {
 public:
  __device__ __forceinline__ GroupDescent(const RefineGroupArguments& a, uint32_t firstRow)
      : a_(a), firstRow_(firstRow), lane_(threadIdx.x % 32), oneBit_(a.bits == 1) {}

  __device__ __forceinline__ void run() {
    load();
    multiplyLevels();
    if (oneBit_)
      moveScalesAndMeans();
    else
      moveScales();
    moveCodes();
    store();
  }

 private:
  /// H_ij of this lane's column of slot k; 0 past the group's last.
  __device__ __forceinline__ float blockElement(uint32_t i, uint32_t k) const {
    const uint32_t j = 32 * k + lane_;
    return j < a_.width ? __ldg(a_.h + i * a_.columns + j) : 0.0f;
  }
  __device__ __forceinline__ float levelOf(uint8_t code, int r) const {
    return oneBit_ ? 2.0f * code - 1.0f : float(code) - offset_[r];
  }
  __device__ __forceinline__ static float valueOf(bool oneBit, float scale, float offset, float level) {
    return __fadd_rn(oneBit ? offset : 0.0f, __fmul_rn(scale, level));
  }
  __device__ __forceinline__ bool inside(int r) const { return firstRow_ + r < a_.rows; }

  __device__ __forceinline__ void load() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const uint32_t row = firstRow_ + r;
      // Rows past the last: a scale to divide by.
      scale_[r] = inside(r) ? __half2float(__ushort_as_half(a_.scales[row])) : 1.0f;
      offset_[r] = !inside(r) ? 0.0f
                   : oneBit_  ? __half2float(__ushort_as_half(a_.means[row]))
                              : float(a_.zeros[row]);
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        const uint32_t j = 32 * k + lane_;
        const bool real = inside(r) && j < a_.width;
        gradient_[r][k] = real ? a_.gradient[row * a_.columns + j] : 0.0f;
        level_[r][k] = real ? levelOf(a_.codes[row * a_.columns + j], r) : 0.0f;
      }
    }
  }

  /// products = levels · H
  __device__ __forceinline__ void multiplyLevels() {
#pragma unroll
    for (int k = 0; k < kSlots; ++k)
#pragma unroll
      for (int r = 0; r < kRows; ++r) product_[r][k] = 0;
#pragma unroll
    for (int from = 0; from < kSlots; ++from) {
      float own[kRows];
#pragma unroll
      for (int r = 0; r < kRows; ++r) own[r] = level_[r][from];
      const uint32_t count = from * 32 < a_.width ? min(32u, a_.width - from * 32) : 0;
#pragma unroll 4
      for (uint32_t l = 0; l < count; ++l) {
        float level[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) level[r] = __shfl_sync(0xffffffffu, own[r], int(l));
#pragma unroll
        for (int k = 0; k < kSlots; ++k) {
          const float h = blockElement(32 * from + l, k);
#pragma unroll
          for (int r = 0; r < kRows; ++r) product_[r][k] = fmaf(level[r], h, product_[r][k]);
        }
      }
    }
  }

  /// c H cᵀ and G · c, the same in every lane.
  __device__ __forceinline__ void formsOf(int r, double& curvature, double& slope) {
    curvature = slope = 0;
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      curvature += double(product_[r][k]) * level_[r][k];
      slope += double(gradient_[r][k]) * level_[r][k];
    }
    curvature = warpSum(curvature);
    slope = warpSum(slope);
  }

  /// The scale that is best for the levels: s ← s + (G·c) / (c H cᵀ).
  __device__ __forceinline__ void moveScales() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      double curvature, slope;
      formsOf(r, curvature, slope);
      if (!(curvature > 0)) continue;
      const float moved = __half2float(__float2half_rn(float(scale_[r] + slope / curvature)));
      const double step = double(moved) - scale_[r];
      if (!(moved > 0) || isinf(moved) || !(step * (step * curvature - 2 * slope) < 0)) continue;
      scale_[r] = moved;
#pragma unroll
      for (int k = 0; k < kSlots; ++k) gradient_[r][k] -= float(step) * product_[r][k];
    }
  }

  /// The scale and the mean that are best for the signs c, together: the 2 × 2 system of c and ones.
  __device__ __forceinline__ void moveScalesAndMeans() {
    double ones = 0;  // 1 H 1ᵀ
    float columnSum[kSlots];
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      float sum = 0;
      for (uint32_t i = 0; i < a_.width; ++i) sum += blockElement(i, k);
      columnSum[k] = sum;
      ones += sum;
    }
    ones = warpSum(ones);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      double curvature, slope, mixed = 0, rise = 0;
      formsOf(r, curvature, slope);
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        mixed += product_[r][k];
        rise += gradient_[r][k];
      }
      mixed = warpSum(mixed);
      rise = warpSum(rise);
      const double determinant = curvature * ones - mixed * mixed;
      // All signs equal: scale and mean say the same thing.
      if (scale_[r] == 0 || !(determinant > 1e-6 * curvature * ones)) continue;
      const float scale =
          __half2float(__float2half_rn(float(scale_[r] + (ones * slope - mixed * rise) / determinant)));
      const float mean =
          __half2float(__float2half_rn(float(offset_[r] + (curvature * rise - mixed * slope) / determinant)));
      const double ds = double(scale) - scale_[r], dm = double(mean) - offset_[r];
      const double change = ds * (ds * curvature + 2 * dm * mixed - 2 * slope) + dm * (dm * ones - 2 * rise);
      if (!(scale > 0) || isinf(scale) || !isfinite(mean) || !(change < 0)) continue;
      scale_[r] = scale;
      offset_[r] = mean;
#pragma unroll
      for (int k = 0; k < kSlots; ++k)
        gradient_[r][k] -= float(ds) * product_[r][k] + float(dm) * columnSum[k];
    }
  }

  /// The level nearest to c + g_j / (H_jj s).
  __device__ __forceinline__ float nearestLevel(int r, float level, float step, float inverseScale) const {
    const float target = fmaf(scale_[r], level, step);  // 1 bit: less the mean
    if (oneBit_) return target > 0 ? 1.0f : target < 0 ? -1.0f : level;
    return rintf(fminf(fmaxf(target * inverseScale, -offset_[r]), float((1 << a_.bits) - 1) - offset_[r]));
  }

  /// One pass over the columns in their order; the gradient follows.
  __device__ __forceinline__ void moveCodes() {
    float inverseScale[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) inverseScale[r] = 1.0f / scale_[r];
#pragma unroll
    for (int k = 0; k < kSlots; ++k) {
      if (32 * k >= a_.width) break;
      const uint32_t j = 32 * k + lane_;
      const float inverse = j < a_.width ? 1.0f / __ldg(a_.h + j * (a_.columns + 1)) : 0.0f;
      uint32_t next[kRows] = {};  // the first lane that has not had its turn
      while (true) {
        uint32_t moving[kRows], any = 0;
        float moved[kRows], change[kRows];
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const float level = level_[r][k];
          moved[r] = nearestLevel(r, level, gradient_[r][k] * inverse, inverseScale[r]);
          change[r] = scale_[r] * (level - moved[r]);
          moving[r] = __ballot_sync(0xffffffffu, change[r] != 0 && lane_ >= next[r] && j < a_.width);
          any |= moving[r];
        }
        if (any == 0) break;
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int mover = moving[r] ? __ffs(int(moving[r])) - 1 : 0;
          const float shared = __shfl_sync(0xffffffffu, change[r], mover);
          const float delta = moving[r] ? shared : 0.0f;
          if (moving[r] && int(lane_) == mover) level_[r][k] = moved[r];
          next[r] = moving[r] ? uint32_t(mover) + 1 : 32;
#pragma unroll
          for (int to = 0; to < kSlots; ++to)
            gradient_[r][to] = fmaf(delta, blockElement(32 * k + uint32_t(mover), to), gradient_[r][to]);
        }
      }
    }
  }

  __device__ __forceinline__ void store() {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (!inside(r)) continue;
      const uint32_t row = firstRow_ + r;
      const float scaleBefore = __half2float(__ushort_as_half(a_.scales[row]));
      const float offsetBefore = oneBit_ ? __half2float(__ushort_as_half(a_.means[row])) : offset_[r];
#pragma unroll
      for (int k = 0; k < kSlots; ++k) {
        const uint32_t j = 32 * k + lane_;
        if (j >= a_.width) continue;
        const uint64_t at = row * a_.columns + j;
        const float level = level_[r][k];
        const float change = valueOf(oneBit_, scaleBefore, offsetBefore, levelOf(a_.codes[at], r)) -
                             valueOf(oneBit_, scale_[r], offset_[r], level);
        a_.changes[row * a_.changeStride + j] = change;
        a_.error[at] += change;
        a_.codes[at] = oneBit_ ? uint8_t(level > 0) : uint8_t(int(level + offset_[r]));
      }
      __syncwarp();  // every lane has read the scale
      if (lane_ == 0) {
        a_.scales[row] = __half_as_ushort(__float2half_rn(scale_[r]));
        if (oneBit_) a_.means[row] = __half_as_ushort(__float2half_rn(offset_[r]));
      }
    }
  }

  const RefineGroupArguments& a_;
  const uint32_t firstRow_, lane_;
  const bool oneBit_;
  float scale_[kRows], offset_[kRows];
  float gradient_[kRows][kSlots], level_[kRows][kSlots], product_[kRows][kSlots];
};

template <int kSlots, int kRows>
__device__ __forceinline__ void refineInRegisters(const RefineGroupArguments& a) {
  const uint32_t row = (blockIdx.x * kRefineWarps + threadIdx.x / 32) * kRows;
  if (row >= a.rows) return;
  GroupDescent<kSlots, kRows>(a, row).run();
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kRefineWarps)
    refineGroup128(const __grid_constant__ slim::cuda::RefineGroupArguments a) {
  using namespace slim::cuda;
  refineInRegisters<kNarrowWidth / 32, kNarrowRows>(a);
}

extern "C" __global__ void __launch_bounds__(32 * slim::cuda::kRefineWarps)
    refineGroup256(const __grid_constant__ slim::cuda::RefineGroupArguments a) {
  using namespace slim::cuda;
  refineInRegisters<kWideWidth / 32, kWideRows>(a);
}
