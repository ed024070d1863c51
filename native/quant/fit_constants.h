// What the quantizers of a group try and what they hold to, the same on the CPU and on a GPU.
#pragma once
#include <array>
#include <cstddef>

namespace slim {

/// How the scale of a group is chosen: its range; SQC (scale_search.h); the wide search
/// (wide_scale_search.h).
enum class Quantizer { MinMax, Sqc, Wide };

// A smaller range over 255 steps would make a scale that is subnormal, of few bits, or zero. Its weights are
// far below the least scale that can be stored: they count as zeros.
constexpr float kLeastRange = 0x1p-118f;
constexpr float kGreatestBound = 0x1p126f;  // hi − lo stays finite; 2^24 is the most that can be stored
constexpr float kLeastHalf = 0x1p-24f, kGreatestHalf = 65504.0f;

constexpr float kSearchNorm = 2.4f;
constexpr size_t kSearchSteps = 50;  // to each side
constexpr size_t kSearchCandidates = 2 * kSearchSteps + 1;
constexpr double kSearchRange = 0.1;

/// SQC's factors p on the range, in the order in which they are tried.
constexpr std::array<float, kSearchCandidates> kSearchFactors = [] {
  std::array<float, kSearchCandidates> p{};
  p[0] = 1;
  for (size_t k = 1; k <= kSearchSteps; ++k) {
    const double step = kSearchRange * double(k) / double(kSearchSteps);
    p[k] = float(1 + step);
    p[kSearchSteps + k] = float(1 - step);
  }
  return p;
}();

/// Of the wide search: zero points that are tried beyond four bits, and factors on its base scales.
constexpr int kNearZeros = 4, kLeastSquaresRounds = 3;
constexpr std::array<float, 17> kWideFactors = {0.30f, 0.35f, 0.40f, 0.45f, 0.50f, 0.55f, 0.60f, 0.65f, 0.70f,
                                                0.75f, 0.80f, 0.85f, 0.90f, 0.95f, 1.00f, 1.05f, 1.10f};

}  // namespace slim
