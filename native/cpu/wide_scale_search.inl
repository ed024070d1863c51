// The wide search of the quality mode for rows in the lanes of vectors; its oracle is
// quant/wide_scale_search.cc.

inline Vector wideLoss(const float* weights, const float* h, size_t width, Vector s, Vector lowest,
                       Vector highest) {
  const Vector inverse = 1.0f / s, rounder = broadcast(kRounder);
  Vector loss{};
  for (size_t j = 0; j < width; ++j) {
    const Vector w = load(weights + j * kLanes);
    // Levels stand on top of kRounder, whose addition rounds them.
    const Vector level = smaller(larger(fma(w, inverse, rounder), lowest), highest);
    const Vector e = fma(rounder - level, s, w);
    loss = fma(e * h[j], e, loss);
  }
  return loss;
}

void searchWideScale(const float* weights, const float* h, size_t width, const float* lo, const float* hi,
                     int maxCode, float* scale, float* zero) {
  const Vector rounder = broadcast(kRounder);
  for (size_t r = 0; r < kLanes; r += kVectorLanes) {
    const float* rows = weights + r;
    const Vector low = load(lo + r), high = load(hi + r), range = (high - low) / float(maxCode);
    alignas(sizeof(Vector)) float first[kVectorLanes];
    int zeros = 0;  // as many for every row
    for (size_t i = 0; i < kVectorLanes; ++i) {
      const ZeroRange tried(lo[r + i], hi[r + i], maxCode);
      first[i] = float(tried.first);
      zeros = tried.last - tried.first + 1;
    }
    Vector least = broadcast(kInfinity), bestScale = range, bestZero{};
    const auto consider = [&](Vector s, Vector z, IntVector allowed) {
      const Vector loss = wideLoss(rows, h, width, s, rounder - z, rounder - z + float(maxCode));
      const IntVector better = (loss < least) & allowed;
      least = better ? loss : least;
      bestScale = better ? s : bestScale;
      bestZero = better ? z : bestZero;
    };
    for (int k = 0; k < zeros; ++k) {
      const Vector z = load(first) + float(k), rest = float(maxCode) - z;
      const Vector above = rest > 0.0f ? high / rest : Vector{}, below = z > 0.0f ? -low / z : Vector{};
      for (const Vector base : {larger(above, below), range})
        for (const float p : kWideFactors) consider(base * p, z, base > 0.0f);
    }
    for (int round = 0; round < kLeastSquaresRounds; ++round) {
      const Vector inverse = 1.0f / bestScale, lowest = rounder - bestZero, highest = lowest + float(maxCode);
      Vector products{}, squares{};
      for (size_t j = 0; j < width; ++j) {
        const Vector w = load(rows + j * kLanes);
        const Vector c = smaller(larger(fma(w, inverse, rounder), lowest), highest) - rounder;
        products = fma(c * h[j], w, products);
        squares = fma(c * h[j], c, squares);
      }
      const Vector s = products / squares;  // NaN for codes that are all 0: no comparison with it is true
      consider(s, bestZero, s > 0.0f);
    }
    store(scale + r, bestScale);
    store(zero + r, bestZero);
  }
}
