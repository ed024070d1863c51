#include "decoder/attention.h"

#include <algorithm>

namespace slim {

void prepareHeads(ThreadPool& pool, const BlockSpec& spec, const Norm& queryNorm, const Norm& keyNorm,
                  const RotaryTable& rotary, const TokenTile& tile, float* qkv, KeyValues* cache) {
  const HeadOffsets offsets(spec);
  constexpr size_t kTokens = 2 * kKeyPanel;  // two threads seldom write to one cache line of a key panel
  const size_t chunks = (tile.length + kTokens - 1) / kTokens;
  pool.parallelFor(tile.sequences * chunks, [&](size_t index, int) {
    const size_t sequence = index / chunks, first = index % chunks * kTokens;
    for (size_t t = first; t < std::min(tile.length, first + kTokens); ++t) {
      float* row = qkv + (sequence * tile.length + t) * spec.qkvWidth();
      for (size_t h = 0; h < spec.heads; ++h) {
        float* query = row + offsets.query(h);
        if (queryNorm) queryNorm.apply(query, query);
        if (spec.rotary.dim) rotary.apply(t, query);
        for (size_t d = 0; d < spec.headDim; ++d) query[d] *= spec.attention.scale;
      }
      for (size_t h = 0; h < spec.kvHeads; ++h) {
        float* key = row + offsets.key(h);
        if (keyNorm) keyNorm.apply(key, key);
        if (spec.rotary.dim) rotary.apply(t, key);
        cache[sequence].store(h, tile.start + t, key, row + offsets.value(h));
      }
    }
  });
}

void attention(ThreadPool& pool, const BlockSpec& spec, const TokenTile& tile, const float* qkv,
               const KeyValues* cache, float* out, std::vector<FloatBuffer>& scratch) {
  const HeadOffsets offsets(spec);
  const size_t queryTiles = (tile.length + kQueryTile - 1) / kQueryTile, group = spec.heads / spec.kvHeads;
  const size_t scratchSize = AttentionTile::scratchSize(cache[0].valueStride());
  scratch.resize(std::max(scratch.size(), size_t(pool.threads())));
  for (FloatBuffer& buffer : scratch) buffer.reserve(scratchSize);
  const DecoderKernels& kernels = decoderKernels();
  pool.parallelFor(tile.sequences * spec.heads * queryTiles, [&](size_t index, int thread) {
    const size_t first = index % queryTiles * kQueryTile, head = index / queryTiles % spec.heads,
                 sequence = index / queryTiles / spec.heads, token = sequence * tile.length + first;
    AttentionTile t;
    t.queries = qkv + token * spec.qkvWidth() + offsets.query(head);
    t.queryStride = spec.qkvWidth();
    t.queryCount = std::min(kQueryTile, tile.length - first);
    t.firstPosition = tile.start + first;
    t.keyPanels = cache[sequence].keyPanels(head / group);
    t.values = cache[sequence].values(head / group);
    t.headDim = spec.headDim;
    t.valueStride = cache[sequence].valueStride();
    t.softcap = spec.attention.softcap;
    t.window = spec.attention.window;
    t.out = out + token * spec.queryWidth() + head * spec.headDim;
    t.outStride = spec.queryWidth();
    t.scratch = scratch[size_t(thread)].data();
    kernels.attend(t);
  });
}

}  // namespace slim
