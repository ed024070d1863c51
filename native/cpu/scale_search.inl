// The search of SQC for rows in the lanes of vectors; its oracle is quant/scale_search.cc. Needs `exponent`
// and `mantissa` of an instruction set: x = 2^exponent · mantissa in [1, 2), for normal x > 0.

// |e|^2.4 = e² · 2^(0.2·log2 e²), relative error 8.5e-7 for 2^-30 < |e| < 2^30; 0 counts as 2^-50.
static_assert(kSearchNorm == 2.4f);
inline Vector powSearchNorm(Vector e) {
  const Vector square = fma(e, e, broadcast(0x1p-100f)), t = mantissa(square) - 1.0f;
  using P = Log2Polynomial;
  Vector y = broadcast(P::k5);
  y = fma(y, t, broadcast(P::k4));
  y = fma(y, t, broadcast(P::k3));
  y = fma(y, t, broadcast(P::k2));
  y = fma(y, t, broadcast(P::k1));
  y = fma(y, t, broadcast(P::k0));
  const Vector log = fma(y, t, exponent(square)), share = broadcast(0.2f);
  const Vector rounder = broadcast(kRounder), rounded = fma(log, share, rounder);
  const Vector root = exp2Fraction(fma(log, share, rounder - rounded));
  return square * Vector(IntVector(root) + (IntVector(rounded) << 23));
}

void searchScale(const float* weights, size_t width, const float* lo, const float* hi, int maxCode,
                 float* scale, float* zero) {
  for (size_t r = 0; r < kLanes; r += kVectorLanes) {
    const Vector low = load(lo + r), high = load(hi + r), rounder = broadcast(kRounder);
    Vector least = broadcast(kInfinity), bestScale{}, bestZero{};
    for (const float p : kSearchFactors) {
      const Vector s = (p * high - p * low) / float(maxCode);
      // Levels stand on top of kRounder, whose addition rounds them: the least is −zero.
      const Vector lowest = p * low / s + rounder, highest = lowest + float(maxCode);
      const Vector inverse = 1.0f / s;
      Vector loss{};
      for (size_t j = 0; j < width; ++j) {
        const Vector w = load(weights + j * kLanes + r);
        const Vector level = smaller(larger(fma(w, inverse, rounder), lowest), highest);
        loss += powSearchNorm(fma(rounder - level, s, w));
      }
      const IntVector better = p == 1 ? ~IntVector{} : loss < least;
      least = better ? loss : least;
      bestScale = better ? s : bestScale;
      bestZero = better ? rounder - lowest : bestZero;
    }
    store(scale + r, bestScale);
    store(zero + r, bestZero);
  }
}
