#include "decoder/attention_backward.h"

#include <algorithm>
#include <limits>

#include "core/partial_sum.h"
#include "cpu/gemm.h"

namespace slim {
namespace {

// Queries of one product: enough that packing its operands is small beside it, few enough that little above
// the diagonal is computed for nothing and that two tiles of scores stay in the second-level cache.
constexpr size_t kQueries = 64;
constexpr size_t kLanes = 16;

size_t paddedKeys(size_t keys) { return (keys + kLanes - 1) / kLanes * kLanes; }

void capScores(float* scores, size_t n, float cap) {
  for (size_t j = 0; j < n; ++j) scores[j] /= cap;
  decoderKernels().tanh(scores, n);
  for (size_t j = 0; j < n; ++j) scores[j] *= cap;
}

// Scores of one query become likelihoods p = softmax(scores); gradients ∂L/∂p become ∂L/∂scores =
// p ∘ (∂L/∂p − Σ p ∂L/∂p), where Σ p ∂L/∂p = out · ∂L/∂out is given; with a cap, by the scores before it:
// times 1 − (score / cap)².
void softmaxBackward(float* scores, float* gradients, size_t n, float expected, float cap,
                     float* uncappedSlope) {
  const DecoderKernels& kernels = decoderKernels();
  if (cap > 0) {
    capScores(scores, n, cap);
    for (size_t j = 0; j < n; ++j) uncappedSlope[j] = 1.0f - (scores[j] / cap) * (scores[j] / cap);
  }
  const float highest = kernels.maximum(scores, n);
  for (size_t j = 0; j < n; ++j) scores[j] -= highest;
  kernels.exp(scores, n);
  const float inverse = 1.0f / float(partialSum(n, [&](size_t j) { return scores[j]; }));
  for (size_t j = 0; j < n; ++j) {
    scores[j] *= inverse;
    gradients[j] = scores[j] * (gradients[j] - expected);
  }
  if (cap > 0)
    for (size_t j = 0; j < n; ++j) gradients[j] *= uncappedSlope[j];
}

}  // namespace

void attentionBackward(ThreadPool& pool, const BlockSpec& spec, const TokenTile& tile, const float* qkv,
                       const float* out, const float* outGradients, float* gradients,
                       std::vector<FloatBuffer>& scratch) {
  const HeadOffsets offsets(spec);
  const size_t group = spec.heads / spec.kvHeads, width = spec.qkvWidth(), outWidth = spec.queryWidth(),
               dim = spec.headDim, length = tile.length, window = spec.attention.window,
               scoreSize = kQueries * paddedKeys(length);
  scratch.resize(std::max(scratch.size(), size_t(pool.threads())));
  for (FloatBuffer& buffer : scratch) buffer.reserve(2 * scoreSize + paddedKeys(length));
  const auto firstKey = [&](size_t position) {
    return window && position >= window ? position + 1 - window : 0;
  };
  pool.parallelFor(tile.sequences * spec.kvHeads, [&](size_t index, int thread) {
    const size_t kvHead = index % spec.kvHeads, token = index / spec.kvHeads * length;
    const size_t keyAt = token * width + offsets.key(kvHead), valueAt = token * width + offsets.value(kvHead);
    for (size_t t = 0; t < length; ++t) {
      std::fill_n(gradients + keyAt + t * width, dim, 0.0f);
      std::fill_n(gradients + valueAt + t * width, dim, 0.0f);
    }
    float* const scores = scratch[size_t(thread)].data();
    float *const scoreGradients = scores + scoreSize, *const slopes = scoreGradients + scoreSize;
    GemmOptions adding;
    adding.accumulate = true;
    for (size_t head = kvHead * group; head < (kvHead + 1) * group; ++head)
      for (size_t first = 0; first < length; first += kQueries) {
        const size_t queries = std::min(kQueries, length - first), begin = firstKey(first),
                     keys = first + queries - begin, stride = paddedKeys(keys);
        const size_t queryAt = (token + first) * width + offsets.query(head);
        const size_t outAt = (token + first) * outWidth + head * dim;
        const float *key = qkv + keyAt + begin * width, *value = qkv + valueAt + begin * width;
        // S = Q Kᵀ, ∂L/∂P = ∂L/∂out Vᵀ
        gemm(pool, queries, keys, dim, Operand::rowMajor(qkv + queryAt, width), Operand::rowMajor(key, width),
             scores, stride);
        gemm(pool, queries, keys, dim, Operand::rowMajor(outGradients + outAt, outWidth),
             Operand::rowMajor(value, width), scoreGradients, stride);
        for (size_t i = 0; i < queries; ++i) {
          const size_t from = firstKey(first + i) - begin, to = first + i + 1 - begin;
          const float *o = out + outAt + i * outWidth, *dO = outGradients + outAt + i * outWidth;
          float *s = scores + i * stride, *dS = scoreGradients + i * stride;
          softmaxBackward(s + from, dS + from, to - from,
                          float(partialSum(dim, [&](size_t d) { return o[d] * dO[d]; })),
                          spec.attention.softcap, slopes);
          for (float* row : {s, dS}) {
            std::fill(row, row + from, 0.0f);
            std::fill(row + to, row + keys, 0.0f);
          }
        }
        // ∂L/∂Q = ∂L/∂S K, ∂L/∂K += ∂L/∂Sᵀ Q, ∂L/∂V += Pᵀ ∂L/∂out
        gemm(pool, queries, dim, keys, Operand::rowMajor(scoreGradients, stride),
             Operand::columnMajor(key, width), gradients + queryAt, width);
        gemm(pool, keys, dim, queries, Operand::columnMajor(scoreGradients, stride),
             Operand::columnMajor(qkv + queryAt, width), gradients + keyAt + begin * width, width, adding);
        gemm(pool, keys, dim, queries, Operand::columnMajor(scores, stride),
             Operand::columnMajor(outGradients + outAt, outWidth), gradients + valueAt + begin * width, width,
             adding);
      }
  });
}

void prepareHeadsBackward(ThreadPool& pool, const BlockSpec& spec, const Norm& queryNorm, const Norm& keyNorm,
                          const RotaryTable& rotary, const TokenTile& tile, const float* projected,
                          float* gradients) {
  const HeadOffsets offsets(spec);
  constexpr size_t kTokens = 16;
  const size_t tokens = tile.tokens();
  pool.parallelFor((tokens + kTokens - 1) / kTokens, [&](size_t task, int) {
    for (size_t t = task * kTokens; t < std::min(tokens, (task + 1) * kTokens); ++t) {
      const auto turnBack = [&](const Norm& norm, size_t offset) {
        const size_t at = t * spec.qkvWidth() + offset;
        if (spec.rotary.dim) rotary.backward(t % tile.length, gradients + at);
        if (norm) norm.backward(projected + at, gradients + at, gradients + at, false);
      };
      for (size_t h = 0; h < spec.heads; ++h) {
        float* query = gradients + t * spec.qkvWidth() + offsets.query(h);
        for (size_t d = 0; d < spec.headDim; ++d) query[d] *= spec.attention.scale;
        turnBack(queryNorm, offsets.query(h));
      }
      for (size_t h = 0; h < spec.kvHeads; ++h) turnBack(keyNorm, offsets.key(h));
    }
  });
}

}  // namespace slim
