// Four lanes through the compiler's vector extension: SSE2 on x86-64, NEON on arm64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "core/polynomials.h"
#include "decoder/kernels.h"
#include "decoder/key_values.h"
#include "quant/refinement.h"
#include "quant/softmax_divergence.h"

namespace slim {
namespace {

constexpr size_t kVectorLanes = 4;
constexpr size_t kRegisterRows = 2, kRegisterVectors = 4;
typedef float Vector __attribute__((vector_size(16)));
inline Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }
inline Vector load(const uint16_t* halves) {
  return Vector{halfToFloat(halves[0]), halfToFloat(halves[1]), halfToFloat(halves[2]),
                halfToFloat(halves[3])};
}
inline Vector load(const int8_t* p) { return Vector{float(p[0]), float(p[1]), float(p[2]), float(p[3])}; }

#include "cpu/attention_tile.inl"
#include "cpu/cached_attention.inl"
#include "cpu/refinement.inl"

}  // namespace

extern const DecoderKernels kPortableKernels;
const DecoderKernels kPortableKernels = {mapInPlace<exp>,
                                         mapInPlace<tanh>,
                                         mapInPlace<silu>,
                                         mapInPlace<gelu>,
                                         mapInPlace<geluTanh>,
                                         maximum,
                                         sumExp,
                                         sumExpDifference,
                                         attend,
                                         attendPages,
                                         mapInPlace<siluGradient>,
                                         mapInPlace<geluGradient>,
                                         mapInPlace<geluTanhGradient>};
const RefinementKernels kRefinementPortable = {multiplyLevels, descendCodes};

}  // namespace slim
