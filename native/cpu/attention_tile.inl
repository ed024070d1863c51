// Attention of one tile of queries, streaming over tiles of keys with a running softmax (Milakov and
// Gimelshein, arXiv 1805.02867): scores never leave the cache, whatever the length.
#include "cpu/softmax.inl"

// c [Rows][Vectors] (+)= Σ_k a[i][k] · b[k][v]: rows broadcast, columns in vectors. Vector v of step k lies
// at b + k · bStep + v · bVector.
template <size_t Rows, size_t Vectors>
inline void product(size_t depth, const float* a, size_t aStride, const float* b, size_t bStep,
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

template <size_t Vectors>
inline void productRows(size_t rows, size_t depth, const float* a, size_t aStride, const float* b,
                        size_t bStep, size_t bVector, float* c, size_t cStride, bool accumulate) {
  for (; rows >= kRegisterRows;
       rows -= kRegisterRows, a += kRegisterRows * aStride, c += kRegisterRows * cStride)
    product<kRegisterRows, Vectors>(depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
  for (; rows >= 2; rows -= 2, a += 2 * aStride, c += 2 * cStride)
    product<2, Vectors>(depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
  if (rows) product<1, Vectors>(depth, a, aStride, b, bStep, bVector, c, cStride, accumulate);
}

// scores [queries][kKeyTile] of `panels` panels of keys
inline void scorePanels(const AttentionTile& t, const float* keys, size_t panels, float* scores) {
  constexpr size_t kPanelVectors = kKeyPanel / kVectorLanes, kPanels = kRegisterVectors / kPanelVectors;
  const size_t panelSize = t.headDim * kKeyPanel;
  // Within a panel vectors lie kVectorLanes apart; across panels (one vector each) a panel apart.
  constexpr bool kAcross = kPanelVectors == 1;
  size_t p = 0;
  for (; p + kPanels <= panels; p += kPanels)
    productRows<kRegisterVectors>(t.queryCount, t.headDim, t.queries, t.queryStride, keys + p * panelSize,
                                  kKeyPanel, kAcross ? panelSize : kVectorLanes, scores + p * kKeyPanel,
                                  kKeyTile, false);
  for (; p < panels; ++p)
    productRows<kPanelVectors>(t.queryCount, t.headDim, t.queries, t.queryStride, keys + p * panelSize,
                               kKeyPanel, kVectorLanes, scores + p * kKeyPanel, kKeyTile, false);
}

// sums [queries][valueStride] += scores · values
inline void addValues(const AttentionTile& t, const float* values, size_t keys, const float* scores,
                      float* sums) {
  size_t d = 0;
  for (; d + kRegisterVectors * kVectorLanes <= t.valueStride; d += kRegisterVectors * kVectorLanes)
    productRows<kRegisterVectors>(t.queryCount, keys, scores, kKeyTile, values + d, t.valueStride,
                                  kVectorLanes, sums + d, t.valueStride, true);
  for (; d < t.valueStride; d += kVectorLanes)
    productRows<1>(t.queryCount, keys, scores, kKeyTile, values + d, t.valueStride, kVectorLanes, sums + d,
                   t.valueStride, true);
}

inline void capScores(float* row, size_t n, float cap) {
  for (size_t j = 0; j < n; j += kVectorLanes) store(row + j, cap * tanh(load(row + j) / cap));
}

void attend(const AttentionTile& t) {
  float* const scores = t.scratch;
  float* const sums = t.scratch + kQueryTile * kKeyTile;
  float highest[kQueryTile];
  double total[kQueryTile];
  std::fill_n(sums, t.queryCount * t.valueStride, 0.0f);
  std::fill_n(highest, t.queryCount,
              -std::numeric_limits<float>::max());  // finite: a row may be all masked in a tile
  std::fill_n(total, t.queryCount, 0.0);

  const auto firstKey = [&](size_t position) {
    return t.window && position >= t.window ? position + 1 - t.window : 0;
  };
  const size_t end = t.firstPosition + t.queryCount;
  for (size_t key = firstKey(t.firstPosition) / kKeyPanel * kKeyPanel; key < end; key += kKeyTile) {
    const size_t keys = std::min(kKeyTile, end - key);
    const size_t panels = (keys + kKeyPanel - 1) / kKeyPanel, padded = panels * kKeyPanel;
    scorePanels(t, t.keyPanels + key * t.headDim, panels, scores);
    for (size_t i = 0; i < t.queryCount; ++i) {
      float* row = scores + i * kKeyTile;
      if (t.softcap > 0) capScores(row, padded, t.softcap);
      // Query i sees the keys [from, to) of this tile.
      const size_t position = t.firstPosition + i;
      const size_t from = std::min(padded, std::max(firstKey(position), key) - key);
      const size_t to = position < key ? 0 : std::min(padded, position + 1 - key);
      std::fill(row, row + from, -kInfinity);
      std::fill(row + to, row + padded, -kInfinity);

      const float before = highest[i];
      highest[i] = std::max(before, maximum(row, padded));
      const Vector shift = broadcast(highest[i]);
      Vector sum{};
      for (size_t j = 0; j < padded; j += kVectorLanes) {
        const Vector weight = exp(load(row + j) - shift);
        store(row + j, weight);
        sum += weight;
      }
      if (highest[i] != before) {
        const Vector factor = exp(broadcast(before) - shift);
        for (size_t d = 0; d < t.valueStride; d += kVectorLanes) {
          float* at = sums + i * t.valueStride + d;
          store(at, load(at) * factor);
        }
        total[i] *= factor[0];
      }
      total[i] += sumLanes(sum);
    }
    addValues(t, t.values + key * t.valueStride, keys, scores, sums);
  }
  for (size_t i = 0; i < t.queryCount; ++i) {
    const float inverse = float(1.0 / total[i]);
    for (size_t d = 0; d < t.headDim; ++d) t.out[i * t.outStride + d] = sums[i * t.valueStride + d] * inverse;
  }
}
