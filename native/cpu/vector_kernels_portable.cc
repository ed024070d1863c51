// Four lanes through the compiler's vector extension: SSE2 on x86-64, NEON on arm64.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "decoder/kernels.h"
#include "decoder/kv_cache.h"
#include "quant/refinement.h"
#include "quant/softmax_divergence.h"

namespace slim {
namespace {

constexpr size_t kVectorLanes = 4;
constexpr size_t kRegisterRows = 2, kRegisterVectors = 4;
typedef float Vector __attribute__((vector_size(16)));
inline Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }

#include "cpu/attention_tile.inl"
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
                                         mapInPlace<siluGradient>,
                                         mapInPlace<geluGradient>,
                                         mapInPlace<geluTanhGradient>};
const RefinementKernels kRefinementPortable = {multiplyLevels, descendCodes};

}  // namespace slim
