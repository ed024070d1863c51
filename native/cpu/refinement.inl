// Refinement's kernels for rows in the lanes of vectors (quant/refinement.h).

void multiplyLevels(const float* levels, size_t width, const float* h, size_t stride, float* products) {
  constexpr size_t kColumns = 8;  // accumulators that hide the latency of an addition
  for (size_t r = 0; r < kLanes; r += kVectorLanes) {
    size_t j = 0;
    for (; j + kColumns <= width; j += kColumns) {
      Vector sums[kColumns] = {};
      for (size_t i = 0; i < width; ++i) {
        const Vector level = load(levels + i * kLanes + r);
        for (size_t c = 0; c < kColumns; ++c) sums[c] = fma(level, broadcast(h[i * stride + j + c]), sums[c]);
      }
      for (size_t c = 0; c < kColumns; ++c) store(products + (j + c) * kLanes + r, sums[c]);
    }
    for (; j < width; ++j) {
      Vector sum{};
      for (size_t i = 0; i < width; ++i)
        sum = fma(load(levels + i * kLanes + r), broadcast(h[i * stride + j]), sum);
      store(products + j * kLanes + r, sum);
    }
  }
}

inline bool anyNonZero(Vector x) {
  const IntVector set = x != 0.0f;
  int32_t any = 0;
  for (size_t i = 0; i < kVectorLanes; ++i) any |= set[i];
  return any != 0;
}

void descendCodes(float* gradient, size_t width, const float* h, size_t stride, int maxCode,
                  const float* scale, const float* offset, float* levels) {
  const bool oneBit = maxCode == 1;
  for (size_t r = 0; r < kLanes; r += kVectorLanes) {
    const Vector s = load(scale + r), z = load(offset + r), rounder = broadcast(kRounder);
    const Vector least = -z, greatest = float(maxCode) - z;
    for (size_t j = 0; j < width; ++j) {
      const float* row = h + j * stride;
      const Vector level = load(levels + j * kLanes + r);
      const Vector step = load(gradient + j * kLanes + r) / row[j];
      const Vector target = fma(s, level, step);  // 1 bit: less the mean
      Vector moved = level;
      if (oneBit)
        moved = target > 0.0f ? broadcast(1) : target < 0.0f ? broadcast(-1) : level;
      else
        moved = smaller(larger(target / s, least), greatest) + rounder - rounder;
      const Vector change = s * (level - moved);
      if (!anyNonZero(change)) continue;
      store(levels + j * kLanes + r, moved);
      for (size_t i = 0; i < width; ++i) {
        float* g = gradient + i * kLanes + r;
        store(g, fma(change, broadcast(row[i]), load(g)));
      }
    }
  }
}
