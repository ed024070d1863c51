#include "cuda/sampling.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "cuda/device_linear.h"

namespace slim::cuda {
namespace {

constexpr size_t kLeastTokens = 64;

static_assert(sizeof(SamplingRow) % 8 == 0 && sizeof(SampledRow) % 8 == 0 && sizeof(LikelyToken) == 8);
constexpr size_t kInputWords = sizeof(SamplingRow) / 8, kOutputWords = sizeof(SampledRow) / 8;

}  // namespace

void SamplingInput::add(Sampler& sampler, size_t vocab) {
  const SamplerOptions& options = sampler.options();
  SamplingRow row{};
  row.draws = options.temperature > 0;
  if (row.draws) {
    row.fraction = uint64_t(sampler.uniform() * 0x1p64);
    row.inverseTemperature = float(std::clamp(1 / options.temperature, 1e-30, 1e30));
  }
  row.topK = options.topK < vocab ? uint32_t(options.topK) : 0;
  row.topP = options.topP;
  row.minLogit = options.minP > 0 ? options.temperature * std::log(options.minP)
                                  : -std::numeric_limits<double>::infinity();
  row.repetitionPenalty = float(options.repetitionPenalty);
  std::vector<int32_t> ids;
  sampler.penalized(vocab, ids);
  row.firstRecent = uint32_t(recents.size());
  row.recents = uint32_t(ids.size());
  recents.insert(recents.end(), ids.begin(), ids.end());
  row.firstLikely = uint32_t(likely);
  row.likeliest = uint32_t(std::min(options.topLogprobs, vocab));
  likely += row.likeliest;
  rows.push_back(row);
}

SamplingBuffers::Shape SamplingBuffers::shapeOf(const SamplingInput& input) {
  const auto roomFor = [](size_t tokens) {
    return tokens > 0 ? std::bit_ceil(std::max(tokens, kLeastTokens)) : 0;
  };
  return {input.rows.size(), roomFor(input.recents.size()), roomFor(input.likely)};
}

Status SamplingBuffers::reserve(Device& device, const Shape& shape) {
  const std::string about = "the samplers of " + std::to_string(shape.rows) + " sequences";
  shape_ = shape;
  if (shape.rows == 0) return Status::success();
  SLIM_RETURN_IF_ERROR(cuda::reserve(device, shape.rows * kInputWords + shape.recents / 2, about, input_));
  SLIM_RETURN_IF_ERROR(cuda::reserve(device, shape.rows * kOutputWords + shape.likely, about, output_));
  return cuda::reserve(device, std::max<size_t>(shape.recents, 1), about, recentLogits_);
}

Status SamplingBuffers::upload(Device& device, const SamplingInput& input) {
  std::vector<uint64_t> words(shape_.rows * kInputWords + divideUp(input.recents.size(), 2));
  if (words.empty()) return Status::success();
  std::memcpy(words.data(), input.rows.data(), input.rows.size() * sizeof(SamplingRow));
  if (!input.recents.empty())
    std::memcpy(words.data() + shape_.rows * kInputWords, input.recents.data(), input.recents.size() * 4);
  return device.copyToDevice(input_.address(), words.data(), words.size() * 8);
}

Status SamplingBuffers::sample(Device& device, DeviceAddress logits, size_t vocab) const {
  SampleArguments a{};
  a.logits = addressOf<float>(logits);
  a.rows = addressOf<const SamplingRow>(input_.address());
  a.recents = addressOf<const int32_t>(input_.address() + shape_.rows * sizeof(SamplingRow));
  a.recentLogits = addressOf<float>(recentLogits_.address());
  a.sampled = addressOf<SampledRow>(output_.address());
  a.likely = addressOf<LikelyToken>(output_.address() + shape_.rows * sizeof(SampledRow));
  a.vocab = uint32_t(vocab);
  return device.launch("sampleTokens", {.gridX = unsigned(shape_.rows), .threads = kSampleThreads}, a,
                       std::to_string(shape_.rows) + " rows of " + std::to_string(vocab) + " logits");
}

Status SamplingBuffers::read(Device& device, const SamplingInput& input,
                             std::vector<std::optional<SampledToken>>& out) const {
  std::vector<uint64_t> words(shape_.rows * kOutputWords + input.likely);
  SLIM_RETURN_IF_ERROR(device.copyToHost(words.data(), output_.address(), words.size() * 8));
  std::vector<SampledRow> sampled(shape_.rows);
  std::vector<LikelyToken> likely(input.likely);
  std::memcpy(sampled.data(), words.data(), sampled.size() * sizeof(SampledRow));
  if (!likely.empty())
    std::memcpy(likely.data(), words.data() + shape_.rows * kOutputWords,
                likely.size() * sizeof(LikelyToken));
  out.assign(shape_.rows, std::nullopt);
  for (size_t r = 0; r < shape_.rows; ++r) {
    const SampledRow& row = sampled[r];
    if (!row.finite) continue;
    const double normalizer = row.highest + std::log(double(row.sum) / kLikelihoodOne);
    SampledToken& token = out[r].emplace();
    token.tokenId = row.id;
    token.logprob = row.logit - normalizer;
    const auto first = likely.begin() + ptrdiff_t(input.rows[r].firstLikely);
    const auto last = first + ptrdiff_t(input.rows[r].likeliest);
    std::sort(first, last, [](const LikelyToken& a, const LikelyToken& b) {
      return TokenRank{a.logit, a.id}.before({b.logit, b.id});
    });
    for (auto likelyToken = first; likelyToken < last; ++likelyToken)
      token.top.push_back({likelyToken->id, likelyToken->logit - normalizer});
  }
  return Status::success();
}

}  // namespace slim::cuda
