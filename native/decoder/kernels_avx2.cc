#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "decoder/kernels.h"
#include "decoder/kv_cache.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace {

constexpr size_t kLanes = 8;
// 12 accumulators, 2 vectors of B and a broadcast: 15 of 16 registers.
constexpr size_t kRegisterRows = 6, kRegisterVectors = 2;
typedef float Vector __attribute__((vector_size(32)));
inline Vector fma(Vector a, Vector b, Vector c) { return _mm256_fmadd_ps(a, b, c); }

#include "decoder/attention_tile.inl"

}  // namespace
#pragma GCC pop_options

namespace slim {
extern const DecoderKernels kAvx2Kernels;
const DecoderKernels kAvx2Kernels = {expInPlace, tanhInPlace, siluInPlace,      geluInPlace, geluTanhInPlace,
                                     maximum,    sumExp,      sumExpDifference, attend};
}  // namespace slim
#endif
