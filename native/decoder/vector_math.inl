// Exponential, tanh and the activations on vectors of kLanes floats. Included by kernels_*.cc (through
// attention_tile.inl) inside an anonymous namespace, after `Vector`, `kLanes` and `fma` of an instruction
// set: the same text compiled for each.

typedef int32_t IntVector __attribute__((vector_size(sizeof(Vector))));
typedef float UnalignedVector __attribute__((vector_size(sizeof(Vector)), aligned(4), may_alias));

inline Vector load(const float* p) { return Vector(*reinterpret_cast<const UnalignedVector*>(p)); }
inline void store(float* p, Vector v) { *reinterpret_cast<UnalignedVector*>(p) = UnalignedVector(v); }
inline Vector broadcast(float value) { return value - Vector{}; }
inline Vector absolute(Vector x) { return Vector(IntVector(x) & 0x7fffffff); }
inline Vector larger(Vector a, Vector b) { return a > b ? a : b; }

// e^x = 2^n · e^r with |r| ≤ ln 2 / 2; the polynomial is Cephes' expf. NaN stays NaN.
inline Vector exp(Vector x) {
  const Vector highest = broadcast(88.3762626f), lowest = broadcast(-87.3365447f);
  const Vector clamped = x > highest ? highest : (x < lowest ? lowest : x);
  constexpr float kRounder = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer
  const Vector n = (clamped * 1.44269504f + kRounder) - kRounder;
  Vector r = fma(n, broadcast(-0.693359375f), clamped);  // ln 2 in two parts; n times the first is exact
  r = fma(n, broadcast(2.12194440e-4f), r);
  Vector p = broadcast(1.9875691500e-4f);
  p = fma(p, r, broadcast(1.3981999507e-3f));
  p = fma(p, r, broadcast(8.3334519073e-3f));
  p = fma(p, r, broadcast(4.1665795894e-2f));
  p = fma(p, r, broadcast(1.6666665459e-1f));
  p = fma(p, r, broadcast(5.0000001201e-1f));
  p = fma(p, r * r, r) + 1.0f;
  const IntVector power = (__builtin_convertvector(n, IntVector) + 127) << 23;
  const Vector result = p * Vector(power);
  return x < lowest ? Vector{} : result;
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
inline Vector gelu(Vector x) {
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
  return 0.5f * x * (x < 0.0f ? erfc : 2.0f - erfc);
}

// (1 + tanh u) / 2 = 1 / (1 + e^−2u)
inline Vector geluTanh(Vector x) {
  const Vector cubic = fma(x * x, x * 0.044715f, x);
  return sigmoidTimes(x, cubic * 1.59576912f);  // 2 √(2/π)
}

inline Vector partialLoad(const float* p, size_t n, float fill) {
  float lanes[kLanes];
  std::fill_n(lanes, kLanes, fill);
  std::memcpy(lanes, p, n * sizeof(float));
  return load(lanes);
}

template <Vector function(Vector)>
inline void mapInPlace(float* x, size_t n) {
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) store(x + i, function(load(x + i)));
  if (i == n) return;
  float lanes[kLanes];
  store(lanes, function(partialLoad(x + i, n - i, 0.0f)));
  std::memcpy(x + i, lanes, (n - i) * sizeof(float));
}

void expInPlace(float* x, size_t n) { mapInPlace<exp>(x, n); }
void tanhInPlace(float* x, size_t n) { mapInPlace<tanh>(x, n); }
void siluInPlace(float* x, size_t n) { mapInPlace<silu>(x, n); }
void geluInPlace(float* x, size_t n) { mapInPlace<gelu>(x, n); }
void geluTanhInPlace(float* x, size_t n) { mapInPlace<geluTanh>(x, n); }

inline float largestLane(Vector v) {
  float lanes[kLanes];
  store(lanes, v);
  return *std::max_element(lanes, lanes + kLanes);
}

inline double sumLanes(Vector v) {
  float lanes[kLanes];
  store(lanes, v);
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

float maximum(const float* x, size_t n) {
  constexpr float kLeast = -std::numeric_limits<float>::infinity();
  Vector result = broadcast(kLeast);
  size_t i = 0;
  for (; i + kLanes <= n; i += kLanes) result = larger(result, load(x + i));
  if (i < n) result = larger(result, partialLoad(x + i, n - i, kLeast));
  return largestLane(result);
}

// Float32 partial sums of at most 1024 / kLanes terms a lane, then float64: vocabularies are long.
constexpr size_t kSumChunk = 1024;

double sumExp(const float* x, size_t n, float shift) {
  double total = 0;
  for (size_t start = 0; start < n; start += kSumChunk) {
    const size_t end = std::min(n, start + kSumChunk);
    Vector sum{};
    size_t i = start;
    for (; i + kLanes <= end; i += kLanes) sum += exp(load(x + i) - shift);
    if (i < end) sum += exp(partialLoad(x + i, end - i, -std::numeric_limits<float>::infinity()) - shift);
    total += sumLanes(sum);
  }
  return total;
}

double sumExpDifference(const float* p, const float* q, size_t n, float shift) {
  double total = 0;
  for (size_t start = 0; start < n; start += kSumChunk) {
    const size_t end = std::min(n, start + kSumChunk);
    Vector sum{};
    size_t i = start;
    for (; i + kLanes <= end; i += kLanes) sum += exp(load(p + i) - shift) * (load(p + i) - load(q + i));
    if (i < end) {  // equal fill: a difference of 0
      const Vector tail = partialLoad(p + i, end - i, 0.0f);
      sum += exp(tail - shift) * (tail - partialLoad(q + i, end - i, 0.0f));
    }
    total += sumLanes(sum);
  }
  return total;
}
