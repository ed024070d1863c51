// The vector kernels of the decoder (cpu/*.inl), one set for each instruction set, chosen at run time.
#pragma once
#include <cstddef>

#include "decoder/kv_cache.h"

namespace slim {

constexpr size_t kQueryTile = 32, kKeyTile = 128;

/// Attention of up to kQueryTile consecutive queries of one head: softmax(q·K) V, causal.
struct AttentionTile {
  const float* queries = nullptr;  // [queryCount][headDim], scaled; row stride queryStride
  size_t queryStride = 0, queryCount = 0;
  size_t firstPosition = 0;          // of the first query in its sequence
  const float* keyPanels = nullptr;  // as KeyValues::keyPanels, filled up to the last query's position
  const float* values = nullptr;     // [positions][valueStride]
  size_t headDim = 0, valueStride = 0;
  float softcap = 0;     // 0: none
  size_t window = 0;     // 0: all
  float* out = nullptr;  // [queryCount][headDim], row stride outStride
  size_t outStride = 0;
  float* scratch = nullptr;  // attentionScratch(valueStride) floats on a cache line

  static size_t scratchSize(size_t valueStride) { return kQueryTile * (kKeyTile + valueStride); }
};

/// Attention of the queries of some consecutive tokens, by heads that share a key head, over a run of pages.
/// A row's results do not depend on what other rows there are.
struct CachedAttentionTile {
  const float* queries = nullptr;     // [rows][headDim], scaled: token after token, `rowsPerToken` heads each
  size_t rows = 0, rowsPerToken = 1;  // rows ≤ kQueryTile
  size_t firstPosition = 0;           // of the first token
  CacheDType dtype = CacheDType::F16;
  const KvSlab* pages = nullptr;  // of the positions from `start` on
  size_t start = 0, end = 0;      // start a multiple of kPagePositions
  size_t headDim = 0, window = 0;
  float softcap = 0;
  // Results, of each row over the positions that it sees: the largest score, Σ e^(score − largest), and
  // Σ e^(score − largest) v [rows][paddedHead(headDim)].
  float* highest = nullptr;
  double* total = nullptr;
  float* sums = nullptr;
  float* scratch = nullptr;  // kQueryTile * kKeyTile floats on a cache line
};

struct DecoderKernels {
  // In place on n floats. exp saturates at e^88.37 and is 0 below e^-87.68.
  void (*exp)(float* x, size_t n);
  void (*tanh)(float* x, size_t n);
  void (*silu)(float* x, size_t n);      // x / (1 + e^-x)
  void (*gelu)(float* x, size_t n);      // x/2 · (1 + erf(x/√2))
  void (*geluTanh)(float* x, size_t n);  // x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³)))
  float (*maximum)(const float* x, size_t n);
  double (*sumExp)(const float* x, size_t n, float shift);  // Σ exp(x − shift)
  /// Σ exp(p − shift) · (p − q)
  double (*sumExpDifference)(const float* p, const float* q, size_t n, float shift);
  void (*attend)(const AttentionTile& tile);
  void (*attendPages)(const CachedAttentionTile& tile);
  // Derivatives of the activations at x, in place on n floats.
  void (*siluGradient)(float* x, size_t n);
  void (*geluGradient)(float* x, size_t n);
  void (*geluTanhGradient)(float* x, size_t n);
};

/// Of the instruction set that kernels use now (cpu/features.h).
const DecoderKernels& decoderKernels();

}  // namespace slim
