// The scale and zero point of a group that lose least, sought far beyond the group's range (METHODS: section
// 2, wide scale search): at two bits the best scale clips most outliers, and the best zero point is often not
// the range's.
//
// Loss: Σ_j h_j (w_j − Q(w_j))², h the diagonal of the Hessian. Candidates: every whole-numbered zero point z
// of the codes (beyond four bits, where it matters little, the kNearZeros nearest to that of
// the range), times kWideFactors · two base
// scales: the least that clips nothing at this z, max(hi / (maxCode − z), −lo / z), and the range's, (hi −
// lo) / maxCode. The first of equals wins. Then kLeastSquaresRounds times the least-squares scale of the
// codes that the best scale gives, s = Σ h c w / Σ h c² (c = code − z), kept where it loses less.
#pragma once
#include <cstddef>

#include "cpu/features.h"
#include "quant/scale_search.h"

namespace slim {

/// The zero points first … last that are tried for a range [lo, hi].
struct ZeroRange {
  int first, last;
  ZeroRange(float lo, float hi, int maxCode);
};

/// weights [width, kLanes], h [width]; lo ≤ 0 ≤ hi, lo < hi, scale and zero [kLanes].
using WideScaleSearch = void (*)(const float* weights, const float* h, size_t width, const float* lo,
                                 const float* hi, int maxCode, float* scale, float* zero);

/// The kernel for an instruction set that this processor has.
WideScaleSearch wideScaleSearch(InstructionSet set = activeInstructionSet());

/// The plain loop in float64, and the oracle of the others: they differ in the last bits of the loss, which
/// can choose the other of two candidates that close.
void searchWideScalePortable(const float* weights, const float* h, size_t width, const float* lo,
                             const float* hi, int maxCode, float* scale, float* zero);
#if defined(__x86_64__)
extern const WideScaleSearch kWideScaleSearchAvx2, kWideScaleSearchAvx512;  // cpu/wide_scale_search.inl
#endif

}  // namespace slim
