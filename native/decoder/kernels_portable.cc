// Four lanes through the compiler's vector extension: SSE2 on x86-64, NEON on arm64.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "decoder/kernels.h"
#include "decoder/kv_cache.h"

namespace {

constexpr size_t kLanes = 4;
constexpr size_t kRegisterRows = 2, kRegisterVectors = 4;
typedef float Vector __attribute__((vector_size(16)));
inline Vector fma(Vector a, Vector b, Vector c) { return a * b + c; }

#include "decoder/attention_tile.inl"

}  // namespace

namespace slim {
extern const DecoderKernels kPortableKernels;
const DecoderKernels kPortableKernels = {expInPlace,  tanhInPlace,      siluInPlace,
                                         geluInPlace, geluTanhInPlace,  maximum,
                                         sumExp,      sumExpDifference, attend};
}  // namespace slim
