// The end of the model backwards: final norm, head and cross entropy, in tiles of tokens.
#pragma once
#include <cstdint>
#include <vector>

#include "decoder/linear.h"
#include "decoder/norm.h"

namespace slim {

struct Head {
  Norm finalNorm;  // may be empty
  Weight weight;   // [vocab, hidden]
  float logitSoftcap = 0.0f;
};

/// What the tokens' likelihoods are taken of: given labels, or labels drawn from the model itself.
struct Labels {
  std::vector<int32_t> given;  // [tokens], or empty: drawn
  /// A label depends on the seed, on firstToken + its index, and on the model alone.
  uint64_t seed = 0, firstToken = 0;
};

/// The number in [0, 1) by which the label of this token of a call is drawn.
double drawOf(const Labels& labels, size_t token);

/// The labels that are known before the pass: those given, and −1 of every sequence's last token and of those
/// to be drawn. Refuses a wrong number of labels or of tokens, and labels that are none of `vocab`.
Status startingLabels(const Labels& labels, size_t tokens, size_t sequenceLength, size_t vocab,
                      std::vector<int32_t>& out);
/// Whether a token is followed by another of its sequence.
inline bool hasLabel(size_t token, size_t sequenceLength) { return (token + 1) % sequenceLength != 0; }

struct HeadGradient {
  double nll = 0;  // the sum that was differentiated
  size_t count = 0;
  std::vector<int32_t> labels;  // [tokens]; −1 where there is none
};

/// gradients [tokens, hidden] = ∂L/∂states, L = −Σ ln p(label_t | states_t) over all tokens of the sequences
/// but their last, whose gradients are 0. `states` [tokens, hidden] are those after the last block.
Status headGradient(const Head& head, const Labels& labels, const float* states, size_t tokens,
                    size_t sequenceLength, float* gradients, HeadGradient& out, ThreadPool& pool,
                    const CancelFlag& cancelled);

}  // namespace slim
