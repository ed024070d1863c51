// Arguments of the decoder's kernels beside the packed products.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// Positions of a page of the KV cache; a tile of keys of the attention kernel.
constexpr uint32_t kCachePage = 64;
/// The longest head: what the kernels' shared memory holds.
constexpr uint32_t kMostHeadDim = 256;
/// Rows of queries (tokens × the heads that share keys) of one attention CTA: of few tokens, of prompts.
constexpr uint32_t kQueryRows = 8, kPromptRows = 64;
/// Rows and tokens that one CTA of a dense product with few tokens takes, and one with more.
constexpr uint32_t kFewRows = 8, kFewTokens = 8, kManyRows = 128, kManyTokens = 64;

/// Heads lie on whole 16-byte vectors in the cache.
SLIM_HOST_DEVICE constexpr uint32_t paddedHeadDim(uint32_t headDim) { return (headDim + 7) / 8 * 8; }

/// embedRows: states [rows, hidden] = scale · table[ids] (+ positionTable[positions + positionOffset]).
struct EmbedArguments {
  Address<const void> table;  // [vocab, hidden] of tableType; of packed tables its codes
  Address<const int32_t> ids, positions;
  Address<const void> positionTable;  // or null
  Address<float> states;
  uint32_t hidden, tableType, positionType, positionOffset;
  float scale;
};

/// embedPackedRows: as embedRows, of a packed table in its canonical layout (docs/format.md).
struct EmbedPackedArguments {
  EmbedArguments embed;
  Address<const uint8_t> groupBits;  // [groups]
  Address<const void> scales;        // float16 [groups, vocab]
  Address<const uint8_t> zeros;
  Address<const uint64_t> codeOffsets, zeroOffsets;  // [groups] bytes
  uint32_t vocab, groupSize;
};

enum class NormType : uint32_t { Rms, Layer, Copy };

/// normRows: out [rows, size] = norm(x of row r, or of rowIndices[r]) (+ out).
struct NormArguments {
  Address<const float> x, weight, bias;  // bias or null
  Address<const int32_t> rowIndices;     // or null
  Address<float> out;
  uint64_t xStride, outStride;
  uint32_t size, type, accumulate;
  float eps;
};

/// A warp takes a head of a row.
constexpr uint32_t kPrepareWarps = 4;

/// prepareHeads, prepareHeadsF32: rows of projected q, k, v: q and k normed per head and turned, q scaled in
/// place; k and v stored in the cache as float16 or float32, beside which k stays in its row, too.
struct PrepareHeadsArguments {
  Address<float> qkv;                                               // [rows, qkvStride]
  Address<const float> queryWeight, queryBias, keyWeight, keyBias;  // null: no norm, no bias
  Address<const float> rotary;                                      // [positions][cos, sin], or null
  Address<const int32_t> positions, sequences;                      // [rows]
  Address<const uint64_t> pages;                                    // [sequences][pagesOfSequence] addresses
  uint64_t qkvStride, blockOffset;                                  // of the block in a page, in bytes
  uint32_t rows, heads, kvHeads, headDim, rotaryDim, perHead, normType, pagesOfSequence;
  float eps, scale;
};

/// A CTA's queries: tokens of one sequence that follow each other.
struct AttentionTile {
  uint32_t firstRow, tokens, sequence, firstPosition;
};

/// Dynamic shared memory of attendPrompt….
SLIM_HOST_DEVICE constexpr uint32_t promptSharedBytes(uint32_t headDim) {
  return (kPromptRows + 2 * kCachePage) * ((headDim + 15) / 16 * 16 + 8) * 2;
}

/// Dynamic shared memory of attendF32.
SLIM_HOST_DEVICE constexpr uint32_t attendF32SharedBytes(uint32_t headDim) {
  return kCachePage * (paddedHeadDim(headDim) + 4) * 4;
}

/// attend, attendF32, mergeSlices, attendPrompt…: out [rows, outStride] = softmax(q · K) V over a sequence's
/// cache.
struct AttentionArguments {
  Address<const float> qkv;  // [rows, qkvStride], from prepareHeads
  Address<float> out;
  Address<const AttentionTile> tiles;
  Address<const uint64_t> pages;
  Address<float> sums;     // [tiles][head blocks][slices][kQueryRows][headDim]
  Address<float> moments;  // [tiles][head blocks][slices][kQueryRows][largest score, Σ e^(score − largest)]
  uint64_t qkvStride, outStride, blockOffset;
  uint32_t heads, kvHeads, headDim, perHead, pagesOfSequence;
  uint32_t headsOfTile, window;
  uint32_t slices, slicePages;  // one slice: out is written at once
  float softcap;
};

/// activateRows: out [rows, width] = act(x) (∘ up), x and up of row stride `stride`. Numbered as
/// slim::Activation.
struct ActivateArguments {
  Address<const float> x, up;  // up may be null
  Address<float> out;          // may be x
  uint64_t stride, outStride;
  uint32_t width, activation;
};

/// biasRows: y [rows, width] (row stride `stride`) = bias (+ y).
struct BiasArguments {
  Address<float> y;
  Address<const float> bias;  // [width]
  uint64_t stride;
  uint32_t width, accumulate;
};

/// capLogits: x = cap · tanh(x / cap).
struct CapArguments {
  Address<float> x;
  uint64_t count;
  float cap;
};

/// denseFew…, denseMany…: y [tokens, yStride] = x · Wᵀ (+ bias) (+ y).
struct DenseProductArguments {
  Address<const float> x;
  Address<const void> weight;  // [rows, columns] of type
  Address<const float> bias;   // or null
  Address<float> y;
  uint64_t xStride, yStride;
  uint32_t rows, columns, tokens, accumulate;
  uint32_t vectors;  // whether rows of x and W lie on 16-byte vectors, 8 elements each
};

}  // namespace slim::cuda
