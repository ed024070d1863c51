// Reductions of softmax and its divergences; the oracle is quant/softmax_divergence.cc.
#include "cpu/vector_math.inl"

constexpr float kInfinity = std::numeric_limits<float>::infinity();

inline float largestLane(Vector v) {
  float lanes[kVectorLanes];
  store(lanes, v);
  return *std::max_element(lanes, lanes + kVectorLanes);
}

inline double sumLanes(Vector v) {
  float lanes[kVectorLanes];
  store(lanes, v);
  double sum = 0;
  for (float lane : lanes) sum += lane;
  return sum;
}

float maximum(const float* x, size_t n) {
  Vector result = broadcast(-kInfinity);
  size_t i = 0;
  for (; i + kVectorLanes <= n; i += kVectorLanes) result = larger(result, load(x + i));
  if (i < n) result = larger(result, loadPart(x + i, n - i, -kInfinity));
  return largestLane(result);
}

// Σ term(i, lanes), a vector of `lanes` terms from i on, the others 0. Float32 partial sums of at most
// 1024 / kVectorLanes terms a lane, then float64: vocabularies are long.
template <typename Term>
inline double sumTerms(size_t n, Term term) {
  constexpr size_t kChunk = 1024;
  double total = 0;
  for (size_t start = 0; start < n; start += kChunk) {
    const size_t end = std::min(n, start + kChunk);
    Vector sum{};
    size_t i = start;
    for (; i + kVectorLanes <= end; i += kVectorLanes) sum += term(i, kVectorLanes);
    if (i < end) sum += term(i, end - i);
    total += sumLanes(sum);
  }
  return total;
}

double sumExp(const float* x, size_t n, float shift) {
  return sumTerms(n, [&](size_t i, size_t lanes) { return exp(loadPart(x + i, lanes, -kInfinity) - shift); });
}

double sumExpDifference(const float* p, const float* q, size_t n, float shift) {
  return sumTerms(n, [&](size_t i, size_t lanes) {
    const Vector log = loadPart(p + i, lanes, 0.0f);  // equal fills: a difference of 0
    return exp(log - shift) * (log - loadPart(q + i, lanes, 0.0f));
  });
}

inline float logSum(const float* y, size_t n) {
  const float greatest = maximum(y, n);
  return greatest + float(std::log(sumExp(y, n, greatest)));
}

inline void logProbabilities(const float* y, size_t n, float* out) {
  const Vector normalizer = broadcast(logSum(y, n)), least = broadcast(kLogLeastProbability);
  map(y, n, out, [&](Vector v) { return larger(v - normalizer, least); });
}

inline double divergence(const float* y, const float* reference, size_t n) {
  const Vector normalizer = broadcast(logSum(y, n)), least = broadcast(kLogLeastProbability);
  return sumTerms(n, [&](size_t i, size_t lanes) {
    const Vector log = larger(loadPart(y + i, lanes, -kInfinity) - normalizer, least);
    return exp(log) * (log - loadPart(reference + i, lanes, kLogLeastProbability));
  });
}
