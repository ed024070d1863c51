#include "decoder/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "decoder/kernels.h"
#include "decoder/likelihoods.h"

namespace slim {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();
constexpr size_t kChunk = 64;  // logits whose largest is looked at first

std::string text(double value) {
  std::string s = std::to_string(value);
  return std::isfinite(value) ? s.substr(0, s.find_last_not_of('0') + 1) : s;
}

size_t likeliest(const float* logits, size_t vocab, float highest) {
  const DecoderKernels& kernels = decoderKernels();
  constexpr size_t kRun = 1024;
  size_t start = 0;
  while (start + kRun < vocab && kernels.maximum(logits + start, kRun) != highest) start += kRun;
  return size_t(std::find(logits + start, logits + vocab, highest) - logits);
}

/// ranks = the tokens with logits of `least` and more.
void collect(const float* logits, size_t vocab, float least, std::vector<TokenRank>& ranks) {
  const DecoderKernels& kernels = decoderKernels();
  ranks.clear();
  for (size_t start = 0; start < vocab; start += kChunk) {
    const size_t end = std::min(vocab, start + kChunk);
    if (!(kernels.maximum(logits + start, end - start) >= least)) continue;
    for (size_t i = start; i < end; ++i)
      if (logits[i] >= least) ranks.push_back({logits[i], int32_t(i)});
  }
}

/// Of the tokens that top-k, top-p and min-p leave, the last.
TokenRank lastLeft(const SamplerOptions& options, const float* logits, size_t vocab, float highest,
                   SamplerScratch& scratch) {
  auto& ranks = scratch.ranks;
  const auto& weights = scratch.weights;
  const auto before = [](const TokenRank& a, const TokenRank& b) { return a.before(b); };
  TokenRank last{-kInfinity, std::numeric_limits<int32_t>::max()};
  double mass = -1;  // of the tokens that top-k leaves
  if (options.topK > 0 && options.topK < vocab) {
    // The k-th largest of the chunks' largest is at most the k-th largest logit: few reach it.
    const DecoderKernels& kernels = decoderKernels();
    float least = -kInfinity;
    ranks.clear();
    for (size_t start = 0; start < vocab; start += kChunk)
      ranks.push_back({kernels.maximum(logits + start, std::min(kChunk, vocab - start)), int32_t(start)});
    const auto kth = ptrdiff_t(options.topK) - 1;
    if (options.topK <= ranks.size()) {
      std::nth_element(ranks.begin(), ranks.begin() + kth, ranks.end(), before);
      least = ranks[size_t(kth)].logit;
    }
    collect(logits, vocab, least, ranks);
    std::nth_element(ranks.begin(), ranks.begin() + kth, ranks.end(), before);
    last = ranks[size_t(kth)];
    ranks.resize(options.topK);
    mass = 0;
    for (const TokenRank& rank : ranks) mass += weights[size_t(rank.id)];
  }
  if (options.topP < 1) {
    const auto massOf = [&](size_t from, size_t to) {
      double sum = 0;
      for (size_t i = from; i < to; ++i) sum += weights[size_t(ranks[i].id)];
      return sum;
    };
    if (mass < 0) {
      // Few tokens carry most of the mass; more of them are looked at while it is not enough.
      mass = ChunkSums(weights.data(), vocab).total();
      for (double width = 6;; width *= 4) {
        const float least = float(highest - width * options.temperature);
        collect(logits, vocab, width > 100 ? -kInfinity : least, ranks);
        if (width > 100 || massOf(0, ranks.size()) >= options.topP * mass) break;
      }
    }
    // The smallest number of the likeliest whose mass reaches the target: halves are left out or kept whole.
    double target = options.topP * mass;
    size_t from = 0, to = ranks.size();
    while (to - from > 1) {
      const size_t middle = from + (to - from) / 2;
      std::nth_element(ranks.begin() + ptrdiff_t(from), ranks.begin() + ptrdiff_t(middle),
                       ranks.begin() + ptrdiff_t(to), before);
      const double upper = massOf(from, middle);
      if (upper >= target) {
        to = middle;
      } else {
        target -= upper;
        from = middle;
      }
    }
    last = ranks[from];
  }
  if (options.minP > 0) {
    const TokenRank least{float(highest + options.temperature * std::log(options.minP)),
                          std::numeric_limits<int32_t>::max()};
    if (least.before(last)) last = least;
  }
  return last;
}

}  // namespace

Status nonFiniteLogits() {
  Status status = Status::error("SLIM_NON_FINITE",
                                "The logits of the next token hold NaN or infinity: nothing can be drawn");
  status.remedy = "Look for a damaged weight, or for activations that overflow";
  return status;
}

Status SamplerOptions::check() const {
  if (!(temperature >= 0 && std::isfinite(temperature)))
    return Status::invalidArgument("temperature", "a number from 0 up", text(temperature));
  if (!(topP > 0 && topP <= 1))
    return Status::invalidArgument("topP", "a number above 0, up to 1", text(topP));
  if (!(minP >= 0 && minP <= 1)) return Status::invalidArgument("minP", "a number from 0 to 1", text(minP));
  if (!(repetitionPenalty >= 1e-6 && repetitionPenalty <= 1e6))
    return Status::invalidArgument("repetitionPenalty", "a number from 1e-6 to 1e6 (1: none)",
                                   text(repetitionPenalty));
  return Status::success();
}

void Sampler::accept(int32_t id) {
  if (options_.repetitionWindow == 0) return;
  if (recent_.size() == options_.repetitionWindow) recent_.erase(recent_.begin());
  recent_.push_back(id);
}

void Sampler::accept(const std::vector<int32_t>& ids) {
  for (const int32_t id : ids) accept(id);
}

void Sampler::penalized(size_t vocab, std::vector<int32_t>& ids) const {
  ids.clear();
  if (options_.repetitionPenalty == 1) return;
  for (const int32_t id : recent_)
    if (size_t(id) < vocab) ids.push_back(id);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

void Sampler::penalize(float* logits, size_t vocab, SamplerScratch& scratch) const {
  penalized(vocab, scratch.penalized);
  scratch.given.clear();
  const float penalty = float(options_.repetitionPenalty);
  for (const int32_t id : scratch.penalized) {
    const float logit = scratch.given.emplace_back(logits[id]);
    // A float that overflows would be no logit any more.
    const float changed = logit > 0 ? logit / penalty : logit * penalty;
    if (logit != -kInfinity) logits[id] = std::clamp(changed, -kMost, kMost);
  }
}

int32_t Sampler::draw(float* logits, size_t vocab, SamplerScratch& scratch) {
  auto& weights = scratch.weights;
  const DecoderKernels& kernels = decoderKernels();
  const float highest = kernels.maximum(logits, vocab);
  if (options_.temperature == 0) return int32_t(likeliest(logits, vocab, highest));
  weights.resize(vocab);
  // Neither 0 nor ∞ as a float: −∞ times it stays −∞, 0 times it 0.
  const float inverse = float(std::clamp(1 / options_.temperature, 1e-30, 1e30));
  for (size_t i = 0; i < vocab; ++i) weights[i] = (logits[i] - highest) * inverse;
  kernels.exp(weights.data(), vocab);
  const TokenRank last = lastLeft(options_, logits, vocab, highest, scratch);
  for (size_t i = 0; i < vocab; ++i)
    if (logits[i] <= last.logit && last.before({logits[i], int32_t(i)})) weights[i] = 0;
  const ChunkSums sums(weights.data(), vocab);
  return int32_t(sums.find(uniform() * sums.total()));
}

Status Sampler::sample(float* logits, size_t vocab, SamplerScratch& scratch, SampledToken& out) {
  const DecoderKernels& kernels = decoderKernels();
  const float highest = kernels.maximum(logits, vocab);
  const double normalizer = highest + std::log(kernels.sumExp(logits, vocab, highest));
  if (!std::isfinite(normalizer)) return nonFiniteLogits();
  out.top.clear();
  if (const size_t count = std::min(options_.topLogprobs, vocab)) {
    const auto before = [&](int32_t a, int32_t b) {
      return TokenRank{logits[a], a}.before(TokenRank{logits[b], b});
    };
    std::vector<int32_t> ids(vocab);
    for (size_t i = 0; i < vocab; ++i) ids[i] = int32_t(i);
    std::partial_sort(ids.begin(), ids.begin() + ptrdiff_t(count), ids.end(), before);
    for (size_t i = 0; i < count; ++i) out.top.push_back({ids[i], logits[ids[i]] - normalizer});
  }
  penalize(logits, vocab, scratch);
  out.tokenId = draw(logits, vocab, scratch);
  float logit = logits[out.tokenId];
  for (size_t i = 0; i < scratch.penalized.size(); ++i)
    if (scratch.penalized[i] == out.tokenId) logit = scratch.given[i];
  out.logprob = logit - normalizer;
  accept(out.tokenId);
  return Status::success();
}

}  // namespace slim
