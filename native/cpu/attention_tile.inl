// Attention of one tile of queries, streaming over tiles of keys with a running softmax (Milakov and
// Gimelshein, arXiv 1805.02867): scores never leave the cache, whatever the length.
#include "cpu/softmax.inl"

// c [Rows][Vectors] (+)= Σ_k a[i][k] · b[k][v]: rows broadcast, columns in vectors. Vector v of step k lies
// at b + k · bStep + v · bVector.
template <size_t Rows, size_t Vectors, typename Element>
inline void product(size_t depth, const float* a, size_t aStride, const Element* b, size_t bStep,
                    size_t bVector, float* c, size_t cStride, bool accumulate) {
  Vector sum[Rows][Vectors];
  for (size_t i = 0; i < Rows; ++i)
    for (size_t v = 0; v < Vectors; ++v)
      sum[i][v] = accumulate ? load(c + i * cStride + v * kVectorLanes) : Vector{};
  for (size_t k = 0; k < depth; ++k, b += bStep) {
    Vector column[Vectors];
    for (size_t v = 0; v < Vectors; ++v) column[v] = load(b + v * bVector);
    for (size_t i = 0; i < Rows; ++i) {
      const Vector row = broadcast(a[i * aStride + k]);
      // cppcheck-suppress uninitvar; Vectors is at least 1
      for (size_t v = 0; v < Vectors; ++v) sum[i][v] = fma(row, column[v], sum[i][v]);
    }
  }
  for (size_t i = 0; i < Rows; ++i)
    for (size_t v = 0; v < Vectors; ++v) store(c + i * cStride + v * kVectorLanes, sum[i][v]);
}

// The last rows, at most Rows of them, in one product: b is read once.
template <size_t Rows, size_t Vectors, typename Element>
inline void productLast(size_t rows, size_t depth, const float* a, size_t aStride, const Element* b,
                        size_t bStep, size_t bVector, float* c, size_t cStride, bool accumulate) {
  if (rows == Rows)
    product<Rows, Vectors>(depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
  else if constexpr (Rows > 1)
    productLast<Rows - 1, Vectors>(rows, depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
}

template <size_t Vectors, typename Element>
inline void productRows(size_t rows, size_t depth, const float* a, size_t aStride, const Element* b,
                        size_t bStep, size_t bVector, float* c, size_t cStride, bool accumulate) {
  for (; rows > kRegisterRows;
       rows -= kRegisterRows, a += kRegisterRows * aStride, c += kRegisterRows * cStride)
    product<kRegisterRows, Vectors>(depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
  productLast<kRegisterRows, Vectors>(rows, depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
}

// scores [rows][kKeyTile] of `panels` panels of keys
template <typename Element>
inline void scorePanels(size_t rows, size_t headDim, const float* queries, size_t queryStride,
                        const Element* keys, size_t panels, float* scores) {
  constexpr size_t kPanelVectors = kKeyPanel / kVectorLanes, kPanels = kRegisterVectors / kPanelVectors;
  const size_t panelSize = headDim * kKeyPanel;
  // Within a panel vectors lie kVectorLanes apart; across panels (one vector each) a panel apart.
  constexpr bool kAcross = kPanelVectors == 1;
  size_t p = 0;
  for (; p + kPanels <= panels; p += kPanels)
    productRows<kRegisterVectors>(rows, headDim, queries, queryStride, keys + p * panelSize, kKeyPanel,
                                  kAcross ? panelSize : kVectorLanes, scores + p * kKeyPanel, kKeyTile,
                                  false);
  for (; p < panels; ++p)
    productRows<kPanelVectors>(rows, headDim, queries, queryStride, keys + p * panelSize, kKeyPanel,
                               kVectorLanes, scores + p * kKeyPanel, kKeyTile, false);
}

// sums [rows][valueStride] += scores [rows][kKeyTile] · values [keys][valueStride]
template <typename Element>
inline void addValues(size_t rows, const Element* values, size_t valueStride, size_t keys,
                      const float* scores, float* sums) {
  size_t d = 0;
  for (; d + kRegisterVectors * kVectorLanes <= valueStride; d += kRegisterVectors * kVectorLanes)
    productRows<kRegisterVectors>(rows, keys, scores, kKeyTile, values + d, valueStride, kVectorLanes,
                                  sums + d, valueStride, true);
  for (; d < valueStride; d += kVectorLanes)
    productRows<1>(rows, keys, scores, kKeyTile, values + d, valueStride, kVectorLanes, sums + d, valueStride,
                   true);
}

inline void capScores(float* row, size_t n, float cap) {
  for (size_t j = 0; j < n; j += kVectorLanes) store(row + j, cap * tanh(load(row + j) / cap));
}

// Finite: a row may be all masked in a tile.
constexpr float kNoScore = -std::numeric_limits<float>::max();

// One row's running softmax moves on by n scores, of which it sees [from, to): they become weights
// e^(score − highest), and what was summed up before is scaled to the new highest.
inline void softmaxStep(float* row, size_t n, size_t from, size_t to, float& highest, double& total,
                        float* sums, size_t valueStride) {
  std::fill(row, row + from, -kInfinity);
  std::fill(row + to, row + n, -kInfinity);
  const float before = highest;
  highest = std::max(before, maximum(row, n));
  const Vector shift = broadcast(highest);
  Vector sum{};
  for (size_t j = 0; j < n; j += kVectorLanes) {
    const Vector weight = exp(load(row + j) - shift);
    store(row + j, weight);
    sum += weight;
  }
  if (highest != before) {
    const Vector factor = exp(broadcast(before) - shift);
    for (size_t d = 0; d < valueStride; d += kVectorLanes) store(sums + d, load(sums + d) * factor);
    total *= factor[0];
  }
  total += sumLanes(sum);
}

inline size_t firstVisible(size_t position, size_t window) {
  return window && position >= window ? position + 1 - window : 0;
}

void attend(const AttentionTile& t) {
  float* const scores = t.scratch;
  float* const sums = t.scratch + kQueryTile * kKeyTile;
  float highest[kQueryTile];
  double total[kQueryTile];
  std::fill_n(sums, t.queryCount * t.valueStride, 0.0f);
  std::fill_n(highest, t.queryCount, kNoScore);
  std::fill_n(total, t.queryCount, 0.0);

  const size_t end = t.firstPosition + t.queryCount;
  for (size_t key = firstVisible(t.firstPosition, t.window) / kKeyPanel * kKeyPanel; key < end;
       key += kKeyTile) {
    const size_t keys = std::min(kKeyTile, end - key);
    const size_t panels = (keys + kKeyPanel - 1) / kKeyPanel, padded = panels * kKeyPanel;
    scorePanels(t.queryCount, t.headDim, t.queries, t.queryStride, t.keyPanels + key * t.headDim, panels,
                scores);
    for (size_t i = 0; i < t.queryCount; ++i) {
      float* row = scores + i * kKeyTile;
      if (t.softcap > 0) capScores(row, padded, t.softcap);
      // Query i sees the keys [from, to) of this tile.
      const size_t position = t.firstPosition + i;
      const size_t from = std::min(padded, std::max(firstVisible(position, t.window), key) - key);
      const size_t to = position < key ? 0 : std::min(padded, position + 1 - key);
      softmaxStep(row, padded, from, to, highest[i], total[i], sums + i * t.valueStride, t.valueStride);
    }
    addValues(t.queryCount, t.values + key * t.valueStride, t.valueStride, keys, scores, sums);
  }
  for (size_t i = 0; i < t.queryCount; ++i) {
    const float inverse = float(1.0 / total[i]);
    for (size_t d = 0; d < t.headDim; ++d) t.out[i * t.outStride + d] = sums[i * t.valueStride + d] * inverse;
  }
}
