// The scale of a group that loses least, by trying clipped ranges (METHODS: step 4, SQC).
//
// Candidates: factors p = 1, then 1 + τk/50, then 1 − τk/50 (k = 1 … 50, τ = 0.1) on the range [lo, hi];
// scale = p(hi − lo)/maxCode, zero = round(−p·lo/scale). Loss: Σ |e|^2.4; the first of equals wins. The paper
// weighs salient elements by λ, which is 1 in its public code: then the mask that finds them changes nothing,
// and there is none.
#pragma once
#include <cstddef>

#include "cpu/features.h"
#include "quant/fit_constants.h"

namespace slim {

/// Kernels work on sixteen rows at once: element j of row r of a group lies at [j * kLanes + r].
constexpr size_t kLanes = 16;

/// weights [width, kLanes]; lo ≤ 0 ≤ hi, lo < hi, scale and zero [kLanes].
using ScaleSearch = void (*)(const float* weights, size_t width, const float* lo, const float* hi,
                             int maxCode, float* scale, float* zero);

/// The kernel for an instruction set that this processor has.
ScaleSearch scaleSearch(InstructionSet set = activeInstructionSet());

/// The plain loop, and the oracle of the others: they differ in the last bits of |e|^2.4 (relative 1e-6),
/// which can choose the other of two candidates that close.
void searchScalePortable(const float* weights, size_t width, const float* lo, const float* hi, int maxCode,
                         float* scale, float* zero);
#if defined(__x86_64__)
extern const ScaleSearch kScaleSearchAvx2, kScaleSearchAvx512;  // cpu/scale_search.inl
#endif

}  // namespace slim
