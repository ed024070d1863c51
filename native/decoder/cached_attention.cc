#include "decoder/cached_attention.h"

#include <algorithm>
#include <cmath>

namespace slim {
namespace {

// Softmax is summed up slice by slice of this many positions, and the slices are put together in their order,
// whoever computed them: results do not depend on how slices are shared out.
constexpr size_t kSlicePages = 4, kSlice = kSlicePages * kPagePositions;
// Tiles of more tokens keep their slices: there are enough tiles for all threads.
constexpr size_t kMostTokensToSplit = 4;
// Multiply-adds below which a loop is not worth the threads' attention (2 to 3 µs).
constexpr size_t kAlone = size_t(1) << 17;

size_t ceilDivide(size_t a, size_t b) { return (a + b - 1) / b; }

/// Σ over a run of positions, of some rows, relative to the rows' largest scores.
struct SoftmaxSums {
  float* highest;
  double* total;
  float* sums;  // [rows][stride]
};

/// `into` += `from`.
void merge(const SoftmaxSums& into, const SoftmaxSums& from, size_t rows, size_t stride) {
  for (size_t r = 0; r < rows; ++r) {
    const float highest = std::max(into.highest[r], from.highest[r]);
    const float keep = std::exp(into.highest[r] - highest), add = std::exp(from.highest[r] - highest);
    float* sums = into.sums + r * stride;
    const float* more = from.sums + r * stride;
    for (size_t d = 0; d < stride; ++d) sums[d] = sums[d] * keep + more[d] * add;
    into.total[r] = into.total[r] * keep + from.total[r] * add;
    into.highest[r] = highest;
  }
}

}  // namespace

void prepareCachedHeads(ThreadPool& pool, const BlockSpec& spec, const Norm& queryNorm, const Norm& keyNorm,
                        const RotaryTable& rotary, size_t block, const std::vector<SequenceChunk>& chunks,
                        float* qkv) {
  const HeadOffsets offsets(spec);
  const auto prepare = [&](const SequenceChunk& chunk, size_t token) {
    const size_t rowIndex = chunk.firstRow + token;
    float* row = qkv + rowIndex * spec.qkvWidth();
    for (size_t h = 0; h < spec.heads; ++h) {
      float* query = row + offsets.query(h);
      if (queryNorm) queryNorm.apply(query, query);
      if (spec.rotary.dim) rotary.apply(rowIndex, query);
      for (size_t d = 0; d < spec.headDim; ++d) query[d] *= spec.attention.scale;
    }
    for (size_t h = 0; h < spec.kvHeads; ++h) {
      float* key = row + offsets.key(h);
      if (keyNorm) keyNorm.apply(key, key);
      if (spec.rotary.dim) rotary.apply(rowIndex, key);
      chunk.cache->store(block, h, chunk.start + token, key, row + offsets.value(h));
    }
  };
  // Two threads seldom write to one cache line of a key panel.
  constexpr size_t kTokens = kKeyPanel;
  for (const SequenceChunk& chunk : chunks)
    pool.parallelFor(ceilDivide(chunk.length, kTokens), [&](size_t task, int) {
      for (size_t t = task * kTokens; t < std::min(chunk.length, (task + 1) * kTokens); ++t)
        prepare(chunk, t);
    });
}

void CachedAttentionScratch::plan(const BlockSpec& spec, const std::vector<SequenceChunk>& chunks) {
  tasks_.clear();
  groups_.clear();
  partials_ = work_ = 0;
  const size_t shared = spec.heads / spec.kvHeads, most = std::min(shared, kQueryTile),
               window = spec.attention.window;
  for (size_t c = 0; c < chunks.size(); ++c) {
    const SequenceChunk& chunk = chunks[c];
    const size_t tileTokens = std::max<size_t>(1, kQueryTile / most);
    for (size_t token = 0; token < chunk.length; token += tileTokens) {
      const size_t tokens = std::min(tileTokens, chunk.length - token), first = chunk.start + token,
                   end = first + tokens, seen = window && first >= window ? first + 1 - window : 0;
      const size_t firstSlice = seen / kSlice, slices = ceilDivide(end, kSlice) - firstSlice;
      work_ += 2 * tokens * spec.queryWidth() * (end - seen);
      for (size_t kvHead = 0; kvHead < spec.kvHeads; ++kvHead)
        for (size_t head = 0; head < shared; head += most) {
          const size_t heads = std::min(most, shared - head);
          const bool split = slices > 1 && chunk.length <= kMostTokensToSplit;
          const size_t share = split ? 1 : slices;
          for (size_t s = 0; s < slices; s += share)
            tasks_.push_back({c, token, tokens, kvHead, kvHead * shared + head, heads, firstSlice + s, share,
                              groups_.size()});
          groups_.push_back({firstSlice, slices / share, partials_});
          if (split) partials_ += slices;
        }
    }
  }
}

void cachedAttention(ThreadPool& pool, const BlockSpec& spec, size_t block,
                     const std::vector<SequenceChunk>& chunks, const float* qkv, float* out,
                     CachedAttentionScratch& scratch) {
  const HeadOffsets offsets(spec);
  const DecoderKernels& kernels = decoderKernels();
  const size_t headDim = spec.headDim, stride = paddedHead(headDim), partialSize = kQueryTile * stride;
  scratch.plan(spec, chunks);
  const auto& tasks = scratch.tasks_;
  const auto& groups = scratch.groups_;
  float* partialSums = scratch.partialSums_.reserve(scratch.partials_ * partialSize);
  scratch.partialHighest_.resize(scratch.partials_ * kQueryTile);
  scratch.partialTotals_.resize(scratch.partials_ * kQueryTile);
  if (scratch.finishedCapacity_ < groups.size()) {
    scratch.finishedCapacity_ = groups.size();
    scratch.finished_ = std::make_unique<std::atomic<size_t>[]>(groups.size());
  }
  for (size_t g = 0; g < groups.size(); ++g) scratch.finished_[g].store(0, std::memory_order_relaxed);
  scratch.threads_.resize(std::max(scratch.threads_.size(), size_t(pool.threads())));
  for (FloatBuffer& buffer : scratch.threads_)
    buffer.reserve(kQueryTile * kKeyTile + kQueryTile * headDim + 2 * partialSize);

  const auto run = [&](size_t index, int thread) {
    const CachedAttentionScratch::Task& task = tasks[index];
    const CachedAttentionScratch::Group& group = groups[task.group];
    const SequenceChunk& chunk = chunks[task.chunk];
    const size_t rows = task.tokens * task.heads;
    float* memory = scratch.threads_[size_t(thread)].data();
    float* queries = memory + kQueryTile * kKeyTile;
    float* runningSums = queries + kQueryTile * headDim;
    float highest[2][kQueryTile];
    double total[2][kQueryTile];
    const SoftmaxSums running{highest[0], total[0], runningSums},
        slice{highest[1], total[1], runningSums + partialSize};
    const auto partial = [&](size_t s) {
      const size_t p = group.firstPartial + s - group.firstSlice;
      return SoftmaxSums{scratch.partialHighest_.data() + p * kQueryTile,
                         scratch.partialTotals_.data() + p * kQueryTile, partialSums + p * partialSize};
    };

    for (size_t t = 0, r = 0; t < task.tokens; ++t)
      for (size_t h = 0; h < task.heads; ++h, ++r)
        std::copy_n(qkv + (chunk.firstRow + task.firstToken + t) * spec.qkvWidth() +
                        offsets.query(task.firstHead + h),
                    headDim, queries + r * headDim);
    const bool split = group.slices > 1;
    for (size_t s = task.firstSlice; s < task.firstSlice + task.slices; ++s) {
      const SoftmaxSums& target = split ? partial(s) : s == task.firstSlice ? running : slice;
      CachedAttentionTile t;
      t.queries = queries;
      t.rows = rows;
      t.rowsPerToken = task.heads;
      t.firstPosition = chunk.start + task.firstToken;
      t.dtype = chunk.cache->dtype();
      t.start = s * kSlice;
      t.end = std::min((s + 1) * kSlice, t.firstPosition + task.tokens);
      KvSlab pages[kSlicePages];
      for (size_t page = 0; t.start + page * kPagePositions < t.end; ++page)
        pages[page] = chunk.cache->slab(block, task.kvHead, s * kSlicePages + page);
      t.pages = pages;
      t.headDim = headDim;
      t.window = spec.attention.window;
      t.softcap = spec.attention.softcap;
      t.highest = target.highest;
      t.total = target.total;
      t.sums = target.sums;
      t.scratch = memory;
      kernels.attendPages(t);
      if (!split && s > task.firstSlice) merge(running, slice, rows, stride);
    }
    SoftmaxSums result = running;
    if (split) {
      // The last of a group puts its slices together.
      if (scratch.finished_[task.group].fetch_add(1) + 1 < group.slices) return;
      result = partial(group.firstSlice);
      for (size_t s = 1; s < group.slices; ++s) merge(result, partial(group.firstSlice + s), rows, stride);
    }
    for (size_t t = 0, r = 0; t < task.tokens; ++t)
      for (size_t h = 0; h < task.heads; ++h, ++r) {
        float* to =
            out + (chunk.firstRow + task.firstToken + t) * spec.queryWidth() + (task.firstHead + h) * headDim;
        const float inverse = float(1.0 / result.total[r]);
        for (size_t d = 0; d < headDim; ++d) to[d] = result.sums[r * stride + d] * inverse;
      }
  };
  if (scratch.work_ < kAlone)
    for (size_t i = 0; i < tasks.size(); ++i) run(i, 0);
  else
    pool.parallelFor(tasks.size(), run);
}

}  // namespace slim
