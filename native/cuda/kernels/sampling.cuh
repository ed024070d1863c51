// The next token of a row of logits, as slim::Sampler draws it: repetition penalty, top-k, temperature,
// top-p, min-p. One CTA a row.
//
// Tokens are ordered by rank: the logit's bits as an integer that grows with it, then the falling id. So ties
// go to the lower id, no two tokens are equal, and what top-k, top-p and min-p leave is the tokens from a
// rank on, which is found digit by digit from histograms of tokens (top-k) or likelihoods (top-p).
//
// Likelihoods e^((logit − highest) / T) are integers of 2^-40: their sums depend on no order. The highest is
// 2^40, so sums of 2^23 tokens fit; a token below 2^-41 of the likeliest (28.4 T below its logit) is never
// drawn, and others are rounded by 2^-41, beside what float32 leaves of their exponential (relative 2^-22 of
// likely ones, up to 2^-18 of the least likely, as on the CPU).
#pragma once
#include "cuda/kernels/loads.cuh"
#include "cuda/kernels/sampling_arguments.h"

namespace slim::cuda {

constexpr uint32_t kSampleWarps = kSampleThreads / 32;
static_assert(kSampleWarps <= 32, "a warp holds one value of every warp");
/// Of a digit of a rank.
constexpr uint32_t kRankBits = 10, kRankBins = 1 << kRankBits;
static_assert(kRankBins == 2 * kSampleThreads);
constexpr uint32_t kRankDigits = (64 + kRankBits - 1) / kRankBits;
constexpr uint32_t kShortlist = 2048;
/// Logits of a thread that are on their way at once.
constexpr uint32_t kSampleBatch = 8;

using Word = unsigned long long;

struct __align__(16) SampleShared {
  Word bins[kRankBins];
  Word shortlist[kShortlist];  // ranks of tokens, in any order
  Word warps[kSampleWarps];
  Word above, inBin;
  uint32_t bin, count;
};

__device__ __forceinline__ Word rankOf(float logit, uint32_t id) {
  const uint32_t bits = logit == 0 ? 0 : __float_as_uint(logit);  // −0 = 0
  return Word(bits >> 31 ? ~bits : bits | 0x80000000u) << 32 | ~id;
}
/// Below that of every token: of −∞ beyond all ids.
constexpr Word kLeastRank = Word(0x007fffff) << 32;
__device__ __forceinline__ uint32_t idOf(Word rank) { return ~uint32_t(rank); }
__device__ __forceinline__ float logitOf(Word rank) {
  const uint32_t key = uint32_t(rank >> 32);
  return __uint_as_float(key >> 31 ? key & 0x7fffffffu : ~key);
}

/// The sum up to this lane.
__device__ __forceinline__ Word warpPrefix(Word x) {
#pragma unroll
  for (uint32_t distance = 1; distance < 32; distance *= 2) {
    const Word below = __shfl_up_sync(0xffffffffu, x, distance);
    if (threadIdx.x % 32 >= distance) x += below;
  }
  return x;
}

/// Lane w of every warp gets warp w's value, 0 if there is none.
__device__ __forceinline__ Word exchangeWarps(Word ofWarp, SampleShared& shared) {
  __syncthreads();
  if (threadIdx.x % 32 == 31) shared.warps[threadIdx.x / 32] = ofWarp;
  __syncthreads();
  return threadIdx.x % 32 < kSampleWarps ? shared.warps[threadIdx.x % 32] : 0;
}
__device__ __forceinline__ Word blockSum(Word x, SampleShared& shared) {
  return warpSum(exchangeWarps(warpSum(x), shared));
}
__device__ __forceinline__ Word blockMaximum(Word x, SampleShared& shared) {
  return warpMaximum(exchangeWarps(warpMaximum(x), shared));
}

struct Likelihood {
  float highest, inverseTemperature;
  __device__ __forceinline__ Word of(float logit) const {
    return __float2ull_rn(expf((logit - highest) * inverseTemperature) * float(kLikelihoodOne));
  }
};

/// What one pass over a row tells.
struct RowScan {
  Word best, threadBest;  // ranks of the likeliest: of all, and of this thread's tokens
  Word sum;               // Σ e^(logit − highest)
  bool finite;
};

__device__ __forceinline__ RowScan scanRow(const float* logits, uint32_t vocab, SampleShared& shared) {
  const float none = minusInfinity();
  float highest = none, sum = 0;
  uint32_t id = threadIdx.x;
  bool numbers = true;
  for (uint32_t start = threadIdx.x; start < vocab; start += kSampleBatch * kSampleThreads) {
    float x[kSampleBatch], most = none;
#pragma unroll
    for (uint32_t j = 0; j < kSampleBatch; ++j) {
      const uint32_t i = start + j * kSampleThreads;
      x[j] = i < vocab ? logits[i] : none;
    }
#pragma unroll
    for (uint32_t j = 0; j < kSampleBatch; ++j) {
      numbers = numbers && x[j] < -none;
      most = fmaxf(most, x[j]);
    }
    if (most > highest) {
      sum *= expf(highest - most);
      highest = most;
#pragma unroll
      for (uint32_t j = kSampleBatch; j-- > 0;)
        if (x[j] == most) id = start + j * kSampleThreads;
    }
    if (highest == none) continue;
#pragma unroll
    for (uint32_t j = 0; j < kSampleBatch; ++j) sum += expf(x[j] - highest);
  }
  RowScan scan;
  scan.threadBest = rankOf(highest, id);
  scan.best = blockMaximum(scan.threadBest, shared);
  const float share = highest == none ? 0 : sum * expf(highest - logitOf(scan.best));
  scan.sum = blockSum(__float2ull_rn(share * float(kLikelihoodOne)), shared);
  scan.finite = __syncthreads_and(numbers) && logitOf(scan.best) > none;
  return scan;
}

/// The tokens of a row from a rank on; from the shortlist, if they are there.
struct RankedTokens {
  const float* logits;
  uint32_t vocab;
  Word least = kLeastRank;
  uint32_t listed = 0;  // 0: they are not

  template <uint32_t kBatch, typename Visit>
  __device__ __forceinline__ void forEach(const SampleShared& shared, const Visit& visit) const {
    const uint32_t count = listed > 0 ? listed : vocab;
#pragma unroll 1
    for (uint32_t start = threadIdx.x; start < count; start += kBatch * kSampleThreads) {
      Word ranks[kBatch];
#pragma unroll
      for (uint32_t j = 0; j < kBatch; ++j) {
        const uint32_t i = start + j * kSampleThreads;
        ranks[j] = i >= count ? 0 : listed > 0 ? shared.shortlist[i] : rankOf(logits[i], i);
      }
#pragma unroll
      for (uint32_t j = 0; j < kBatch; ++j)
        if (ranks[j] >= least) visit(ranks[j]);
    }
  }

  /// Lists them, at least one; they stay where they are if they are too many.
  __device__ __forceinline__ void shorten(SampleShared& shared) {
    __syncthreads();
    if (threadIdx.x == 0) shared.count = 0;
    __syncthreads();
    forEach<kSampleBatch>(shared, [&](Word rank) {
      const uint32_t place = atomicAdd(&shared.count, 1u);
      if (place < kShortlist) shared.shortlist[place] = rank;
    });
    __syncthreads();
    if (shared.count <= kShortlist) listed = shared.count;
  }
};

/// The rank from which on as few tokens as possible weigh `target` together. Weights are 1, or the
/// likelihoods if they are given. `best` is the highest rank. After so many digits the others are taken for
/// 0: some more tokens may be from that rank on.
__device__ __forceinline__ Word selectRank(const RankedTokens& tokens, Word best, Word target,
                                           const Likelihood* likelihood, uint32_t digits,
                                           SampleShared& shared) {
  // The first digit begins where ranks differ.
  uint32_t shift = 64 - min(uint32_t(__clzll((long long)(best ^ tokens.least))), 63u);
  Word found = best & ~(~Word(0) >> (64 - shift));
#pragma unroll 1
  for (; digits > 0 && shift > 0; --digits) {
    const uint32_t bits = min(kRankBits, shift);
    shift -= bits;
    reinterpret_cast<ulonglong2*>(shared.bins)[threadIdx.x] = {0, 0};
    __syncthreads();
    tokens.forEach<1>(shared, [&](Word rank) {
      if ((rank ^ found) >> shift >> bits) return;
      const Word weight = likelihood ? likelihood->of(logitOf(rank)) : 1;
      if (weight > 0) atomicAdd(&shared.bins[uint32_t(rank >> shift) & ((1u << bits) - 1)], weight);
    });
    __syncthreads();
    // From the highest bin down, two a thread.
    const uint32_t low = kRankBins - 2 - 2 * threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const ulonglong2 pair = reinterpret_cast<const ulonglong2&>(shared.bins[low]);
    const Word both = pair.x + pair.y, upTo = warpPrefix(both), ofWarps = exchangeWarps(upTo, shared);
    const Word before = warpSum(lane < warp ? ofWarps : 0) + upTo - both;
    if (before < target && target <= before + both) {
      const bool second = target > before + pair.y;
      shared.bin = low + !second;
      shared.above = second ? before + pair.y : before;
      shared.inBin = second ? pair.x : pair.y;
    }
    __syncthreads();
    found |= Word(shared.bin) << shift;
    target -= shared.above;
    // All of the bin is needed if what is too much in it is less than any of its tokens.
    const Word rank = max(found, tokens.least), least = likelihood ? likelihood->of(logitOf(rank)) : 1;
    if (shared.inBin - target < least) break;
  }
  __syncthreads();
  return max(found, tokens.least);
}

/// Leaves the `count` likeliest, in the shortlist if they fit there.
__device__ __forceinline__ void keepLikeliest(RankedTokens& tokens, uint32_t count, const RowScan& scan,
                                              SampleShared& shared) {
  // The count-th of the threads' best ones comes first: few tokens are from there on, and at least so many.
  const uint32_t threads = min(kSampleThreads, tokens.vocab);
  bool ofThreads = count <= threads;
  if (ofThreads) {
    if (threadIdx.x < threads) shared.shortlist[threadIdx.x] = scan.threadBest;
    __syncthreads();
    tokens.listed = threads;
  }
#pragma unroll 1
  while (true) {
    tokens.least = selectRank(tokens, scan.best, count, nullptr, ofThreads ? 2 : kRankDigits, shared);
    if (!ofThreads) return;
    ofThreads = false;
    tokens.listed = 0;
    tokens.shorten(shared);
  }
}

/// The first id up to which the likelihoods of tokens from `least` on exceed their sum times fraction / 2^64:
/// the row is cut into a part for each warp, then the part where it lies.
__device__ __forceinline__ uint32_t drawToken(const RankedTokens& tokens, const Likelihood& likelihood,
                                              Word fraction, SampleShared& shared) {
  const uint32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  uint32_t begin = 0, end = tokens.vocab;
  Word target = 0;
  for (bool whole = true;; whole = false) {
    const uint32_t left = end - begin;
    const uint32_t step = left > kSampleThreads ? 32 : 1, steps = (left + step - 1) / step;
    const uint32_t size = (steps + kSampleWarps - 1) / kSampleWarps * step;
    const uint32_t partEnd = min(end, begin + (warp + 1) * size);
    Word sum = 0;
#pragma unroll kSampleBatch
    for (uint32_t i = begin + warp * size + lane; i < partEnd; i += 32) {
      const float logit = tokens.logits[i];
      if (rankOf(logit, i) >= tokens.least) sum += likelihood.of(logit);
    }
    const Word part = exchangeWarps(warpSum(sum), shared), upTo = warpPrefix(part);
    if (whole) target = __umul64hi(fraction, __shfl_sync(0xffffffffu, upTo, 31));
    const int chosen = __ffs(int(__ballot_sync(0xffffffffu, upTo > target))) - 1;
    target -= __shfl_sync(0xffffffffu, upTo - part, chosen);
    begin += uint32_t(chosen) * size;
    end = min(end, begin + size);
    if (size == 1) return begin;
  }
}

}  // namespace slim::cuda

extern "C" __global__ void __launch_bounds__(slim::cuda::kSampleThreads, 1)
    sampleTokens(const __grid_constant__ slim::cuda::SampleArguments a) {
  using namespace slim::cuda;
  __shared__ SampleShared shared;
  const SamplingRow row = a.rows[blockIdx.x];
  SampledRow& out = a.sampled[blockIdx.x];
  float* logits = a.logits + uint64_t(blockIdx.x) * a.vocab;
  const int32_t* recents = a.recents + row.firstRecent;
  float* recentLogits = a.recentLogits + row.firstRecent;
  RowScan scan;
  RankedTokens tokens;
  // Twice: the logits as the model gave them, and after the repetition penalty.
#pragma unroll 1
  for (bool penalized = false;; penalized = true) {
    if (!penalized || row.recents > 0) scan = scanRow(logits, a.vocab, shared);
    if (!penalized) {
      if (threadIdx.x == 0) {
        out.finite = scan.finite;
        out.sum = scan.sum;
        out.highest = logitOf(scan.best);
      }
      if (!scan.finite) return;
    }
    tokens = {logits, a.vocab};
    const uint32_t count = !penalized ? row.likeliest : row.draws ? row.topK : 0;
    if (count > 0 && count < a.vocab) keepLikeliest(tokens, count, scan, shared);
    if (penalized) break;
    if (count > 0) {
      if (threadIdx.x == 0) shared.count = row.firstLikely;
      __syncthreads();
      tokens.forEach<1>(shared, [&](Word rank) {
        a.likely[atomicAdd(&shared.count, 1u)] = {int32_t(idOf(rank)), logitOf(rank)};
      });
      __syncthreads();
    }
    for (uint32_t i = threadIdx.x; i < row.recents; i += kSampleThreads) {
      const float logit = recentLogits[i] = logits[recents[i]];
      const float changed = logit > 0 ? logit / row.repetitionPenalty : logit * row.repetitionPenalty;
      // A float that overflows would be no logit any more.
      constexpr float kMost = 3.402823466e38f;
      if (logit > minusInfinity()) logits[recents[i]] = fminf(fmaxf(changed, -kMost), kMost);
    }
    __syncthreads();
  }

  uint32_t id = idOf(scan.best);
  if (row.draws) {
    const float highest = logitOf(scan.best);
    const Likelihood likelihood = {highest, row.inverseTemperature};
    if (row.topP < 1) {
      Word sum = 0;
      tokens.forEach<kSampleBatch / 2>(shared, [&](Word rank) { sum += likelihood.of(logitOf(rank)); });
      sum = blockSum(sum, shared);
      const Word target = min(max(Word(ceil(row.topP * double(sum))), Word(1)), sum);
      // All tokens less likely than this share of what is left out are less than that together, so they come
      // after the last one that is kept. The hundredth is for roundings, which small shares lie amid.
      const float share = float(sum - target) / float(a.vocab);
      if (share > 64) {
        const float least = highest + (logf(share / float(kLikelihoodOne)) - 0.01f) / row.inverseTemperature;
        tokens.least = max(tokens.least, rankOf(least, 0xffffffffu));
      }
      if (tokens.listed == 0) tokens.shorten(shared);
      tokens.least = selectRank(tokens, scan.best, target, &likelihood, kRankDigits, shared);
    }
    tokens.least = max(tokens.least, rankOf(float(double(highest) + row.minLogit), 0xffffffffu));
    id = drawToken(tokens, likelihood, row.fraction, shared);
  }

  bool found = false;
  for (uint32_t i = threadIdx.x; i < row.recents; i += kSampleThreads)
    if (recents[i] == int32_t(id)) {
      out.logit = recentLogits[i];
      found = true;
    }
  found = __syncthreads_or(found);
  if (threadIdx.x > 0) return;
  out.id = int32_t(id);
  if (!found) out.logit = logits[id];
}
