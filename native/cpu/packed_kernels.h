// What multiplyPacked needs of an instruction set.
#pragma once
#include <cstddef>
#include <cstdint>

#include "cpu/packed_gemm.h"
#include "cpu/weight_prefetch.h"

namespace slim {

/// Of a segment whose largest magnitude is `most`: q = round(x · lift · inverse), x ≈ q · scale.
struct ActivationScale {
  float scale, lift, inverse;
};
ActivationScale activationScale(float most);

struct PackedKernels {
  /// count floats to int8: q = round(x · 127 / max |x|), zeros up to the next multiple of Segments::kUnit;
  /// the scale and the sum of q. All instruction sets give the same.
  void (*quantize)(const float* x, size_t count, int8_t* q, float& scale, float& sum);
  /// Tiles [first, first + count) of a product, for all tokens; they lie on `stream`.
  void (*multiply)(const PackedProduct& product, const PackedActivations& x, size_t first, size_t count,
                   const WeightStream& stream);
};

extern const PackedKernels kPackedPortable;  // the oracle
#if defined(__x86_64__)
extern const PackedKernels kPackedAvx2;
extern const PackedKernels kPackedAvx512;  // with VNNI
#elif defined(__aarch64__)
extern const PackedKernels kPackedNeon;      // with FEAT_DotProd
extern const PackedKernels kPackedNeonI8mm;  // and FEAT_I8MM
#endif

const PackedKernels& activePackedKernels();

}  // namespace slim
