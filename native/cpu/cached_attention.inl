// Attention of a few queries over some pages of a KV cache, in the cache's own dtype.

template <typename Element>
void attendPagesOf(const CachedAttentionTile& t) {
  static_assert(kPagePositions == kKeyTile);
  const size_t rows = t.rows, valueStride = paddedHead(t.headDim);
  std::fill_n(t.sums, rows * valueStride, 0.0f);
  std::fill_n(t.highest, rows, kNoScore);
  std::fill_n(t.total, rows, 0.0);
  for (size_t page = 0, key = t.start; key < t.end; ++page, key += kPagePositions) {
    const KvSlab& slab = t.pages[page];
    const auto* panelsOfKeys = static_cast<const Element*>(slab.keys);
    const auto* values = static_cast<const Element*>(slab.values);
    // Panels that no query sees, before the window of the first, are left out.
    const size_t visible = std::max(firstVisible(t.firstPosition, t.window), key) - key;
    if (visible >= kPagePositions) continue;
    const size_t skipped = visible / kKeyPanel * kKeyPanel, keys = std::min(kPagePositions, t.end - key);
    const size_t padded = (keys + kKeyPanel - 1) / kKeyPanel * kKeyPanel;
    scorePanels(rows, t.headDim, t.queries, t.headDim, panelsOfKeys + skipped * t.headDim,
                (padded - skipped) / kKeyPanel, t.scratch + skipped);
    for (size_t i = 0; i < rows; ++i) {
      float* row = t.scratch + i * kKeyTile;
      const auto scale = [&](const uint16_t* scales) {
        for (size_t j = skipped; j < padded; j += kVectorLanes)
          store(row + j, load(row + j) * load(scales + j));
      };
      if constexpr (sizeof(Element) == 1) scale(slab.keyScales);
      if (t.softcap > 0) capScores(row + skipped, padded - skipped, t.softcap);
      // This row sees the keys [from, to) of the page.
      const size_t position = t.firstPosition + i / t.rowsPerToken;
      const size_t from = std::min(padded, std::max(firstVisible(position, t.window), key) - key);
      const size_t to = position < key ? 0 : std::min(padded, position + 1 - key);
      softmaxStep(row + skipped, padded - skipped, std::max(from, skipped) - skipped,
                  std::max(to, skipped) - skipped, t.highest[i], t.total[i], t.sums + i * valueStride,
                  valueStride);
      if constexpr (sizeof(Element) == 1) scale(slab.valueScales);
    }
    addValues(rows, values + skipped * valueStride, valueStride, keys - skipped, t.scratch + skipped, t.sums);
  }
}

void attendPages(const CachedAttentionTile& tile) {
  switch (tile.dtype) {
    case CacheDType::F16:
      return attendPagesOf<uint16_t>(tile);
    case CacheDType::I8:
      return attendPagesOf<int8_t>(tile);
    case CacheDType::F32:
      return attendPagesOf<float>(tile);
  }
}
