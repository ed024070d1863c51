#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "decoder/kernels.h"
#include "decoder/kv_cache.h"

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512dq")
namespace {

constexpr size_t kLanes = 16;
// 24 accumulators, 4 vectors of B and a broadcast: 29 of 32 registers.
constexpr size_t kRegisterRows = 6, kRegisterVectors = 4;
typedef float Vector __attribute__((vector_size(64)));
inline Vector fma(Vector a, Vector b, Vector c) { return _mm512_fmadd_ps(a, b, c); }

#include "decoder/attention_tile.inl"

}  // namespace
#pragma GCC pop_options

namespace slim {
extern const DecoderKernels kAvx512Kernels;
const DecoderKernels kAvx512Kernels = {expInPlace,  tanhInPlace,      siluInPlace,
                                       geluInPlace, geluTanhInPlace,  maximum,
                                       sumExp,      sumExpDifference, attend};
}  // namespace slim
#endif
