// The next token of a sequence: drawn from its logits after a repetition penalty, top-k, temperature, top-p
// and min-p, in this order.
#pragma once
#include <cstdint>
#include <vector>

#include "core/split_mix.h"
#include "core/status.h"

namespace slim {

struct SamplerOptions {
  double temperature = 0;        // 0: always the likeliest
  size_t topK = 0;               // 0: all tokens
  double topP = 1, minP = 0;     // of the softmax at this temperature over the tokens that are left
  double repetitionPenalty = 1;  // divides the positive, multiplies the negative logits of recent tokens
  size_t repetitionWindow = 64;  // so many tokens are recent
  uint64_t seed = 0;
  size_t topLogprobs = 0;

  Status check() const;
};

struct TokenLogprob {
  int32_t tokenId = 0;
  double logprob = 0;  // ln of the probability that the unmodified logits give
};

struct SampledToken : TokenLogprob {
  std::vector<TokenLogprob> top;  // the likeliest, ties by the lower id
};

/// A token's place in the order of falling logits, ties by the lower id.
struct TokenRank {
  float logit;
  int32_t id;
  bool before(const TokenRank& other) const {
    return logit > other.logit || (logit == other.logit && id < other.id);
  }
};

/// Of logits that hold NaN, +∞, or nothing but −∞.
Status nonFiniteLogits();

/// Memory of a draw, reused from draw to draw.
struct SamplerScratch {
  std::vector<int32_t> penalized;
  std::vector<float> given;  // their logits, as the model gave them
  std::vector<TokenRank> ranks;
  std::vector<float> weights;  // e^((logit − highest) / temperature)
};

/// What is remembered from token to token. It is a value: a step that fails leaves it as it was.
class Sampler {
 public:
  explicit Sampler(const SamplerOptions& options) : options_(options), random_(options.seed) {}

  const SamplerOptions& options() const { return options_; }
  /// These tokens are the latest.
  void accept(const std::vector<int32_t>& ids);
  void accept(int32_t id);
  /// Draws a token and accepts it. `logits` [vocab] are changed. An error for NaN, +∞, or nothing but −∞.
  Status sample(float* logits, size_t vocab, SamplerScratch& scratch, SampledToken& out);

  // What sample() does, for those who draw elsewhere: these tokens are penalized, each of them once, and this
  // is the random number. Both are to be followed by accept().
  void penalized(size_t vocab, std::vector<int32_t>& ids) const;
  double uniform() { return random_.uniform(); }

 private:
  void penalize(float* logits, size_t vocab, SamplerScratch& scratch) const;
  int32_t draw(float* logits, size_t vocab, SamplerScratch& scratch);

  SamplerOptions options_;
  SplitMix64 random_;
  std::vector<int32_t> recent_;
};

}  // namespace slim
