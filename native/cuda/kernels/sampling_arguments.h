// Arguments of the sampler: the next token of every row of logits.
#pragma once
#include "cuda/kernels/arguments.h"

namespace slim::cuda {

constexpr uint32_t kSampleThreads = 512;

/// Of likelihoods and their sums, as integers: so much is 1.
constexpr double kLikelihoodOne = 0x1p40;

/// How one row's token is drawn (SamplerOptions).
struct SamplingRow {
  uint64_t fraction;  // the random number of [0, 1), times 2^64
  double topP;
  double minLogit;           // min-p: a token's least logit, from the highest on; −∞: none
  float inverseTemperature;  // if it draws; else the likeliest token is taken
  float repetitionPenalty;
  uint32_t draws, topK;             // topK 0: all
  uint32_t firstRecent, recents;    // of `recents`
  uint32_t firstLikely, likeliest;  // of `likely`: so many of the likeliest are told, in any order
};

struct LikelyToken {
  int32_t id;
  float logit;
};

struct SampledRow {
  uint64_t sum;          // Σ e^(logit − highest), times kLikelihoodOne
  float highest, logit;  // as the model gave them: of the likeliest token, and of the drawn one
  int32_t id;
  uint32_t finite;  // 0: NaN, +∞ or nothing but −∞; there is no token then
};

/// sampleTokens: one CTA a row.
struct SampleArguments {
  Address<float> logits;  // [rows, vocab]; those of recent tokens are changed
  Address<const SamplingRow> rows;
  Address<const int32_t> recents;  // of each row different ids below vocab
  Address<float> recentLogits;     // as the model gave them, beside recents
  Address<SampledRow> sampled;
  Address<LikelyToken> likely;
  uint32_t vocab;
};

}  // namespace slim::cuda
