// Exponential, tanh and the activations on vectors of kVectorLanes floats. The texts of this folder (*.inl)
// are written once and compiled by vector_kernels_*.cc for each instruction set, inside an anonymous
// namespace (no instruction may leak into a function that other files share), after its `Vector`,
// `kVectorLanes` and `fma`.

typedef int32_t IntVector __attribute__((vector_size(sizeof(Vector))));
typedef float UnalignedVector __attribute__((vector_size(sizeof(Vector)), aligned(4), may_alias));

inline Vector load(const float* p) { return Vector(*reinterpret_cast<const UnalignedVector*>(p)); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = UnalignedVector(v); }
inline Vector broadcast(float value) { return value - Vector{}; }
inline Vector absolute(Vector x) { return Vector(IntVector(x) & 0x7fffffff); }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }
inline Vector smaller(Vector a, Vector b) { return a < b ? a : b; }

constexpr float kRounder =
    12582912.0f;  // 1.5 · 2^23: adding it rounds, and leaves n in the low bits of the sum

// 2^f for |f| ≤ ½.
inline Vector exp2Fraction(Vector f) {
  using P = Exp2Polynomial;
  Vector p = broadcast(P::k5);
  p = fma(p, f, broadcast(P::k4));
  p = fma(p, f, broadcast(P::k3));
  p = fma(p, f, broadcast(P::k2));
  p = fma(p, f, broadcast(P::k1));
  p = fma(p, f, broadcast(P::k0));
  return fma(p, f, broadcast(1.0f));
}

// e^x = 2^n · 2^f, relative error 1.5e-7; NaN stays NaN, as both comparisons with it are false.
inline Vector exp(Vector x) {
  x = smaller(broadcast(88.3762626f), larger(broadcast(-88.0f), x));
  const Vector rounder = broadcast(kRounder + 127);  // so that a shift makes 2^n, 0 for n = −127
  const Vector rounded = fma(x, broadcast(1.44269504f), rounder), n = rounded - rounder;
  Vector r = fma(n, broadcast(-0.693359375f), x);  // ln 2 in two parts; n times the first is exact
  r = fma(n, broadcast(2.12194440e-4f), r);
  return exp2Fraction(r * 1.44269504f) * Vector(IntVector(rounded) << 23);
}

// Near 0 Cephes' polynomial, since 1 − 2 / (e^2x + 1) cancels there.
inline Vector tanh(Vector x) {
  const Vector magnitude = absolute(x);
  const Vector z = x * x;
  Vector p = broadcast(-5.70498872745e-3f);
  p = fma(p, z, broadcast(2.06390887954e-2f));
  p = fma(p, z, broadcast(-5.37397155531e-2f));
  p = fma(p, z, broadcast(1.33314422036e-1f));
  p = fma(p, z, broadcast(-3.33332819422e-1f));
  const Vector small = fma(p * z, x, x);
  const Vector large = 1.0f - 2.0f / (exp(magnitude + magnitude) + 1.0f);
  const Vector sign = Vector(IntVector(x) & int32_t(0x80000000u));
  return magnitude < 0.625f ? small : Vector(IntVector(large) | IntVector(sign));
}

inline Vector sigmoidTimes(Vector x, Vector argument) { return x / (1.0f + exp(-argument)); }

inline Vector silu(Vector x) { return sigmoidTimes(x, x); }

// erfc(z) = t · exp(−z² + P(t)), t = 1 / (1 + z/2), z ≥ 0 (Numerical Recipes, relative error 1.2e-7): unlike
// 1 + erf it keeps its digits for negative x.
// Φ(x) = (1 + erf(x/√2)) / 2
inline Vector normalDistribution(Vector x) {
  const Vector z = absolute(x) * 0.707106781f;
  const Vector t = 1.0f / fma(z, broadcast(0.5f), broadcast(1.0f));
  Vector p = broadcast(0.17087277f);
  p = fma(p, t, broadcast(-0.82215223f));
  p = fma(p, t, broadcast(1.48851587f));
  p = fma(p, t, broadcast(-1.13520398f));
  p = fma(p, t, broadcast(0.27886807f));
  p = fma(p, t, broadcast(-0.18628806f));
  p = fma(p, t, broadcast(0.09678418f));
  p = fma(p, t, broadcast(0.37409196f));
  p = fma(p, t, broadcast(1.00002368f));
  p = fma(p, t, broadcast(-1.26551223f));
  const Vector erfc = t * exp(p - z * z);
  return 0.5f * (x < 0.0f ? erfc : 2.0f - erfc);
}

inline Vector gelu(Vector x) { return x * normalDistribution(x); }

// (1 + tanh u) / 2 = 1 / (1 + e^−2u)
inline Vector geluTanh(Vector x) {
  const Vector cubic = fma(x * x, x * 0.044715f, x);
  return sigmoidTimes(x, cubic * 1.59576912f);  // 2 √(2/π)
}

// ∂/∂x of x σ(argument): σ + x σ (1 − σ) ∂argument/∂x
inline Vector sigmoidGradient(Vector x, Vector argument, Vector slope) {
  const Vector e = exp(-argument), sigmoid = 1.0f / (1.0f + e);
  return fma(x * slope, sigmoid * (e * sigmoid), sigmoid);  // 1 − σ = e σ keeps its digits
}

inline Vector siluGradient(Vector x) { return sigmoidGradient(x, x, broadcast(1.0f)); }

// Φ(x) + x φ(x)
inline Vector geluGradient(Vector x) {
  return fma(x * 0.398942280f, exp(-0.5f * x * x), normalDistribution(x));
}

inline Vector geluTanhGradient(Vector x) {
  const Vector square = x * x;
  return sigmoidGradient(x, fma(square, x * 0.044715f, x) * 1.59576912f,
                         fma(square, broadcast(0.134145f), broadcast(1.0f)) * 1.59576912f);
}

// n ≤ kVectorLanes floats; the other lanes are `fill`.
inline Vector loadPart(const float* p, size_t n, float fill) {
  if (n == kVectorLanes) return load(p);
  float lanes[kVectorLanes];
  std::fill_n(lanes, kVectorLanes, fill);
  std::memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}

// out = function(x) on n floats
template <typename Function>
inline void map(const float* x, size_t n, float* out, Function function) {
  size_t i = 0;
  for (; i + kVectorLanes <= n; i += kVectorLanes) store(out + i, function(load(x + i)));
  if (i == n) return;
  float lanes[kVectorLanes];
  store(lanes, function(loadPart(x + i, n - i, 0.0f)));
  std::memcpy(out + i, lanes, (n - i) * sizeof(float));
}

template <Vector function(Vector)>
void mapInPlace(float* x, size_t n) {
  map(x, n, x, [&](Vector v) { return function(v); });
}
