// Refinement after GPTQ: coordinate descent on the layer's output error (METHODS: section 2).
//
// Objective: tr((W − Q) H (W − Q)ᵀ), H damped as in GPTQ. With G = (W − Q) H: the code of an element moves to
// the grid point nearest to Q_j + G_j / H_jj; a scale by (G_g · c) / (c H_gg cᵀ), c the group's levels (code
// − zero point); scale and mean of a 1-bit group together, by the 2 × 2 system of the levels ±1 and ones.
// GPTQ decides each column once, with all columns before it fixed; here every decision is looked at again
// with all others in place. A scale moves only if, rounded to float16 as it is stored, it lowers the
// objective: no step raises it.
#pragma once
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "cpu/features.h"
#include "quant/packed_matrix.h"
#include "quant/scale_search.h"

namespace slim {

struct Refinement {
  int sweeps = 0;           // at most
  double leastGain = 0.01;  // stop after a sweep that takes less than this share off the objective
};

/// Improves `codes`, the quantized w [rows, cols]. h [cols, cols]: the whole symmetric matrix H or a multiple
/// of it, damped, with a positive diagonal. `objective`: before, and after each sweep.
Status refine(const float* w, const float* h, const Refinement& options, ThreadPool& pool,
              const CancelFlag& cancelled, GroupCodes& codes, std::vector<double>& objective);

/// Kernels on sixteen rows of a group: element j of row r at [j * kLanes + r]. h: the group's diagonal block
/// of H, rows `stride` apart.
struct RefinementKernels {
  /// products = levels · H [width, kLanes].
  void (*multiply)(const float* levels, size_t width, const float* h, size_t stride, float* products);
  /// One pass over the columns: each code to the grid point nearest to q_j + g_j / H_jj; levels and gradient
  /// g follow. The grid of a row is offset + scale · {−1, 1} where maxCode is 1, scale · {−zero … maxCode −
  /// zero} else (`offset` is the zero point).
  void (*descend)(float* gradient, size_t width, const float* h, size_t stride, int maxCode,
                  const float* scale, const float* offset, float* levels);
};
const RefinementKernels& refinementKernels(InstructionSet set = activeInstructionSet());
extern const RefinementKernels kRefinementPortable;
#if defined(__x86_64__)
extern const RefinementKernels kRefinementAvx2, kRefinementAvx512;  // cpu/refinement.inl
#endif

}  // namespace slim
