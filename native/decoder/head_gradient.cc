#include "decoder/head_gradient.h"

#include <algorithm>
#include <cmath>

#include "core/split_mix.h"
#include "decoder/kernels.h"
#include "decoder/likelihoods.h"

namespace slim {
namespace {

constexpr size_t kLogitBytes = size_t(64) << 20;  // of a tile

// One token: logits before the cap become ∂L/∂logits, p − onehot(label), times 1 − (capped / cap)². Draws the
// label if it is −1; returns the token's negative log-likelihood.
double differentiateToken(float* logits, size_t vocab, float cap, double draw, int32_t& label,
                          std::vector<float>& slopes) {
  const DecoderKernels& kernels = decoderKernels();
  if (cap > 0) {
    slopes.resize(vocab);
    for (size_t i = 0; i < vocab; ++i) logits[i] /= cap;
    kernels.tanh(logits, vocab);
    for (size_t i = 0; i < vocab; ++i) {
      slopes[i] = 1.0f - logits[i] * logits[i];
      logits[i] *= cap;
    }
  }
  const float highest = kernels.maximum(logits, vocab);
  for (size_t i = 0; i < vocab; ++i) logits[i] -= highest;
  const float givenLogit = label >= 0 ? logits[label] : 0.0f;
  kernels.exp(logits, vocab);
  const ChunkSums sums(logits, vocab);
  double logit = givenLogit;
  if (label < 0) {
    label = int32_t(sums.find(draw * sums.total()));
    logit = std::log(double(logits[label]));
  }
  const float inverse = float(1.0 / sums.total());
  for (size_t i = 0; i < vocab; ++i) logits[i] *= inverse;
  logits[label] -= 1.0f;
  if (cap > 0)
    for (size_t i = 0; i < vocab; ++i) logits[i] *= slopes[i];
  return std::log(sums.total()) - logit;
}

}  // namespace

// The numbers of one stream of the seed, whatever the calls that a text is cut into.
double drawOf(const Labels& labels, size_t token) {
  return SplitMix64(labels.seed + (labels.firstToken + token) * SplitMix64::kStep).uniform();
}

Status startingLabels(const Labels& labels, size_t tokens, size_t sequenceLength, size_t vocab,
                      std::vector<int32_t>& out) {
  if (sequenceLength == 0 || tokens % sequenceLength != 0)
    return Status::invalidArgument("sequenceLength", "a divisor of the " + std::to_string(tokens) + " tokens",
                                   std::to_string(sequenceLength));
  out.assign(tokens, -1);
  if (labels.given.empty()) return Status::success();
  if (labels.given.size() != tokens)
    return Status::invalidArgument("labels", std::to_string(tokens) + " token ids, one a state",
                                   std::to_string(labels.given.size()));
  for (size_t t = 0; t < tokens; ++t) {
    if (!hasLabel(t, sequenceLength)) continue;
    if (labels.given[t] < 0 || size_t(labels.given[t]) >= vocab)
      return Status::invalidArgument("labels[" + std::to_string(t) + "]",
                                     "a token id below " + std::to_string(vocab),
                                     std::to_string(labels.given[t]));
    out[t] = labels.given[t];
  }
  return Status::success();
}

Status headGradient(const Head& head, const Labels& labels, const float* states, size_t tokens,
                    size_t sequenceLength, float* gradients, HeadGradient& out, ThreadPool& pool,
                    const CancelFlag& cancelled) {
  const size_t vocab = head.weight.rows, hidden = head.weight.cols;
  SLIM_RETURN_IF_ERROR(startingLabels(labels, tokens, sequenceLength, vocab, out.labels));
  Linear linear;
  linear.weight = head.weight;
  const size_t most = std::clamp<size_t>(kLogitBytes / (vocab * sizeof(float)), 64, 512);
  FloatBuffer logitBuffer, normedBuffer, gradientBuffer, decoded;
  float* logits = logitBuffer.reserve(most * vocab);
  float* normed = normedBuffer.reserve(most * hidden);
  float* normedGradients = gradientBuffer.reserve(most * hidden);
  std::vector<std::vector<float>> slopes(size_t(pool.threads()));
  std::vector<double> nll(most);
  for (size_t first = 0; first < tokens; first += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t count = std::min(most, tokens - first);
    const float* x = states + first * hidden;
    if (head.finalNorm) head.finalNorm.apply(pool, count, x, hidden, normed, hidden);
    linear.apply(pool, count, head.finalNorm ? normed : x, hidden, logits, vocab, false);
    pool.parallelFor(count, [&](size_t i, int thread) {
      float* row = logits + i * vocab;
      nll[i] = 0;
      if (hasLabel(first + i, sequenceLength))
        nll[i] = differentiateToken(row, vocab, head.logitSoftcap, drawOf(labels, first + i),
                                    out.labels[first + i], slopes[size_t(thread)]);
      else
        std::fill_n(row, vocab, 0.0f);
    });
    for (size_t i = 0; i < count; ++i) {
      out.nll += nll[i];
      out.count += hasLabel(first + i, sequenceLength);
    }
    if (cancelled.load()) return Status::aborted();
    float* dx = gradients + first * hidden;
    linear.backward(pool, count, logits, vocab, head.finalNorm ? normedGradients : dx, hidden, false,
                    decoded);
    if (head.finalNorm) head.finalNorm.backward(pool, count, x, normedGradients, dx, false);
  }
  return Status::success();
}

}  // namespace slim
