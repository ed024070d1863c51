#include "quant/refinement.h"

#include <algorithm>
#include <cmath>

#include "core/half.h"
#include "cpu/gemm.h"
#include "quant/groups.h"
#include "quant/quantizer.h"

namespace slim {
namespace {

// Sixteen rows of one group: levels c with Q = offset + scale · c (1 bit: offset the mean, c = ±1) or Q =
// scale · c (c = code − offset, offset the zero point), and the gradient's part G_g.
struct GroupLanes {
  int bits = 0;
  size_t width = 0;
  float scale[kLanes] = {}, offset[kLanes] = {};
  std::vector<float> levels, gradient;  // [width, kLanes]

  float value(size_t j, size_t r) const {
    return (bits == 1 ? offset[r] : 0.0f) + scale[r] * levels[j * kLanes + r];
  }
};

float dot(const float* a, const float* b, size_t width, size_t r) {
  double sum = 0;
  for (size_t j = 0; j < width; ++j) sum += double(a[j * kLanes + r]) * b[j * kLanes + r];
  return float(sum);
}

// The scale that is best for the levels: s ← s + (G·c) / (c H cᵀ).
void moveScale(GroupLanes& g, const float* products) {
  for (size_t r = 0; r < kLanes; ++r) {
    const double curvature = dot(products, g.levels.data(), g.width, r),
                 slope = dot(g.gradient.data(), g.levels.data(), g.width, r);
    if (!(curvature > 0)) continue;
    const float moved = roundToHalf(float(g.scale[r] + slope / curvature));
    const double step = double(moved) - g.scale[r];
    if (!(moved > 0) || !std::isfinite(moved) || !(step * (step * curvature - 2 * slope) < 0)) continue;
    g.scale[r] = moved;
    for (size_t j = 0; j < g.width; ++j) g.gradient[j * kLanes + r] -= float(step) * products[j * kLanes + r];
  }
}

// The scale and the mean that are best for the signs c, together: the 2 × 2 system of c and ones.
// `columnSums` [width]: 1 · H.
void moveScaleAndMean(GroupLanes& g, const float* products, const std::vector<float>& columnSums) {
  double ones = 0;  // 1 H 1ᵀ
  for (const float sum : columnSums) ones += sum;
  for (size_t r = 0; r < kLanes; ++r) {
    const double curvature = dot(products, g.levels.data(), g.width, r),
                 slope = dot(g.gradient.data(), g.levels.data(), g.width, r);
    double mixed = 0, rise = 0;
    for (size_t j = 0; j < g.width; ++j) {
      mixed += products[j * kLanes + r];
      rise += g.gradient[j * kLanes + r];
    }
    const double determinant = curvature * ones - mixed * mixed;
    // All signs equal: scale and mean say the same thing.
    if (g.scale[r] == 0 || !(determinant > 1e-6 * curvature * ones)) continue;
    const float scale = roundToHalf(float(g.scale[r] + (ones * slope - mixed * rise) / determinant)),
                mean = roundToHalf(float(g.offset[r] + (curvature * rise - mixed * slope) / determinant));
    const double ds = double(scale) - g.scale[r], dm = double(mean) - g.offset[r];
    const double change = ds * (ds * curvature + 2 * dm * mixed - 2 * slope) + dm * (dm * ones - 2 * rise);
    if (!(scale > 0) || !std::isfinite(scale) || !std::isfinite(mean) || !(change < 0)) continue;
    g.scale[r] = scale;
    g.offset[r] = mean;
    for (size_t j = 0; j < g.width; ++j)
      g.gradient[j * kLanes + r] -= float(ds) * products[j * kLanes + r] + float(dm) * columnSums[j];
  }
}

class Refiner {
 public:
  Refiner(const float* w, const float* h, ThreadPool& pool, GroupCodes& codes)
      : h_(h),
        pool_(pool),
        codes_(codes),
        rows_(codes.rows),
        cols_(codes.cols),
        groups_{codes.cols, codes.groupSize},
        error_(w, w + codes.rows * codes.cols),
        gradient_(codes.rows * codes.cols) {
    pool_.parallelFor(tiles(), [&](size_t tile, int) {
      for (size_t group = 0; group < groups_.count(); ++group) {
        const GroupLanes lanes = load(group, tile);
        for (size_t r = 0; r < tileRows(tile); ++r)
          for (size_t j = 0; j < lanes.width; ++j)
            error_[(tile * kLanes + r) * cols_ + groups_.begin(group) + j] -= lanes.value(j, r);
      }
    });
    // G = (W − Q) H; H is symmetric.
    gemm(pool_, rows_, cols_, cols_, Operand::rowMajor(error_.data(), cols_), Operand::rowMajor(h_, cols_),
         gradient_.data(), cols_);
  }

  /// tr((W − Q) H (W − Q)ᵀ) = Σ (W − Q) ∘ G.
  double objective() const {
    std::vector<double> rows(rows_);
    pool_.parallelFor(rows_, [&](size_t r, int) {
      for (size_t j = r * cols_; j < (r + 1) * cols_; ++j) rows[r] += double(error_[j]) * gradient_[j];
    });
    double sum = 0;
    for (const double row : rows) sum += row;
    return sum;
  }

  /// Scales, then codes, of a group; then what that does to every column's gradient.
  void refineGroup(size_t group) {
    const size_t begin = groups_.begin(group), width = groups_.width(group);
    const float* block = h_ + begin * cols_ + begin;
    const RefinementKernels& kernels = refinementKernels();
    std::vector<float> columnSums(width);
    for (size_t i = 0; i < width; ++i)
      for (size_t j = 0; j < width; ++j) columnSums[j] += block[i * cols_ + j];
    std::vector<float> changes(rows_ * width);  // Q before − Q after
    pool_.parallelFor(tiles(), [&](size_t tile, int) {
      GroupLanes lanes = load(group, tile);
      const GroupLanes before = lanes;
      std::vector<float> products(width * kLanes);
      kernels.multiply(lanes.levels.data(), width, block, cols_, products.data());
      if (lanes.bits == 1)
        moveScaleAndMean(lanes, products.data(), columnSums);
      else
        moveScale(lanes, products.data());
      kernels.descend(lanes.gradient.data(), width, block, cols_, (1 << lanes.bits) - 1, lanes.scale,
                      lanes.offset, lanes.levels.data());
      store(lanes, group, tile);
      for (size_t r = 0; r < tileRows(tile); ++r) {
        const size_t row = tile * kLanes + r;
        for (size_t j = 0; j < width; ++j) {
          const float change = before.value(j, r) - lanes.value(j, r);
          changes[row * width + j] = change;
          error_[row * cols_ + begin + j] += change;
        }
      }
    });
    gemm(pool_, rows_, cols_, width, Operand::rowMajor(changes.data(), width),
         Operand::columnMajor(h_ + begin * cols_, cols_), gradient_.data(), cols_, {.accumulate = true});
  }

 private:
  size_t tiles() const { return (rows_ + kLanes - 1) / kLanes; }
  size_t tileRows(size_t tile) const { return std::min(kLanes, rows_ - tile * kLanes); }

  GroupLanes load(size_t group, size_t tile) const {
    const size_t begin = groups_.begin(group), width = groups_.width(group);
    GroupLanes lanes;
    lanes.bits = codes_.groupBits[group];
    lanes.width = width;
    lanes.levels.resize(width * kLanes);
    lanes.gradient.resize(width * kLanes);
    for (size_t r = 0; r < tileRows(tile); ++r) {
      const size_t row = tile * kLanes + r, index = group * rows_ + row;
      lanes.scale[r] = halfToFloat(codes_.scales[index]);
      lanes.offset[r] = lanes.bits == 1 ? halfToFloat(codes_.means[index]) : float(codes_.zeros[index]);
      for (size_t j = 0; j < width; ++j) {
        const float code = codes_.codes[row * cols_ + begin + j];
        lanes.levels[j * kLanes + r] = lanes.bits == 1 ? 2 * code - 1 : code - lanes.offset[r];
        lanes.gradient[j * kLanes + r] = gradient_[row * cols_ + begin + j];
      }
    }
    // Rows past the last: a scale to divide by.
    for (size_t r = tileRows(tile); r < kLanes; ++r) lanes.scale[r] = 1;
    return lanes;
  }

  void store(const GroupLanes& lanes, size_t group, size_t tile) {
    const size_t begin = groups_.begin(group);
    for (size_t r = 0; r < tileRows(tile); ++r) {
      const size_t row = tile * kLanes + r, index = group * rows_ + row;
      codes_.scales[index] = floatToHalf(lanes.scale[r]);
      if (lanes.bits == 1) codes_.means[index] = floatToHalf(lanes.offset[r]);
      for (size_t j = 0; j < lanes.width; ++j) {
        const float level = lanes.levels[j * kLanes + r];
        codes_.codes[row * cols_ + begin + j] =
            uint8_t(lanes.bits == 1 ? level > 0 : int(level + lanes.offset[r]));
      }
    }
  }

  const float* h_;
  ThreadPool& pool_;
  GroupCodes& codes_;
  const size_t rows_, cols_;
  const Groups groups_;
  std::vector<float> error_, gradient_;  // W − Q and G, [rows, cols]
};

}  // namespace

Status refine(const float* w, const float* h, const Refinement& options, ThreadPool& pool,
              const CancelFlag& cancelled, GroupCodes& codes, std::vector<double>& objective) {
  Refiner refiner(w, h, pool, codes);
  objective = {refiner.objective()};
  for (int sweep = 0; sweep < options.sweeps; ++sweep) {
    const size_t count = (codes.cols + codes.groupSize - 1) / codes.groupSize;
    for (size_t group = 0; group < count; ++group) {
      if (cancelled.load()) return Status::aborted();
      refiner.refineGroup(group);
    }
    const double before = objective.back();
    objective.push_back(refiner.objective());
    if (objective.back() > (1 - options.leastGain) * before) break;
  }
  return Status::success();
}

const RefinementKernels& refinementKernels(InstructionSet set) {
#if defined(__x86_64__)
  if (set == InstructionSet::Avx512) return kRefinementAvx512;
  if (set == InstructionSet::Avx2) return kRefinementAvx2;
#endif
  (void)set;
  return kRefinementPortable;
}

}  // namespace slim
