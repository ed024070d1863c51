#include "cuda/head_gradient.h"

#include <algorithm>
#include <numeric>

#include "cuda/device_pass.h"
#include "cuda/kernels/head_gradient_arguments.h"

namespace slim::cuda {
namespace {

// A tile's logits; more tokens would not make the products faster.
constexpr size_t kLogitBytes = size_t(256) << 20;
constexpr size_t kLeastTokens = 64, kMostTokens = 1024;

}  // namespace

Status headGradient(const Head& head, const Labels& labels, DeviceStates& states, size_t sequenceLength,
                    std::shared_ptr<DeviceStates>& gradients, HeadGradient& out, ThreadPool& pool,
                    const CancelFlag& cancelled) {
  const std::shared_ptr<Device>& device = states.device();
  const size_t vocab = head.weight.rows, hidden = head.weight.cols, tokens = states.tokens();
  std::vector<int32_t> tags;
  SLIM_RETURN_IF_ERROR(startingLabels(labels, tokens, sequenceLength, vocab, tags));
  std::vector<double> numbers(tokens);
  for (size_t t = 0; t < tokens; ++t) {
    numbers[t] = drawOf(labels, t);
    if (!hasLabel(t, sequenceLength)) tags[t] = kNoLabel;
  }
  SLIM_RETURN_IF_ERROR(DeviceStates::make(device, tokens, hidden, {}, gradients));
  Linear weight;
  weight.weight = head.weight;
  DeviceLinear linear;
  SLIM_RETURN_IF_ERROR(
      DeviceLinear::make(device, weight, "head", pool, cancelled, linear, {.precision = Precision::Float32}));

  DeviceNorm norm;
  DeviceBuffer<int32_t> tagsOnDevice;
  DeviceBuffer<double> draws, losses;
  DeviceBuffer<float> logits, normed;  // of a tile, then their gradients
  ProductScratch scratch;
  const size_t most =
      std::min(tokens, std::clamp(kLogitBytes / (vocab * sizeof(float)), kLeastTokens, kMostTokens));
  {
    const auto lock = device->use();
    SLIM_RETURN_IF_ERROR(DeviceNorm::make(*device, head.finalNorm, "final norm", norm));
    SLIM_RETURN_IF_ERROR(device->upload(tags.data(), tokens, "labels", tagsOnDevice));
    SLIM_RETURN_IF_ERROR(device->upload(numbers.data(), tokens, "draws of labels", draws));
    SLIM_RETURN_IF_ERROR(device->allocate(tokens, "losses of tokens", losses));
    SLIM_RETURN_IF_ERROR(device->allocate(most * vocab, "logits", logits));
    if (norm) SLIM_RETURN_IF_ERROR(device->allocate(most * hidden, "normed states", normed));
  }
  for (size_t first = 0; first < tokens; first += most) {
    if (cancelled.load()) return Status::aborted();
    const size_t count = std::min(most, tokens - first);
    const auto lock = device->use();
    DeviceAddress x, dx;
    SLIM_RETURN_IF_ERROR(states.tile(first, count, DeviceStates::Use::Read, x));
    SLIM_RETURN_IF_ERROR(gradients->tile(first, count, DeviceStates::Use::Overwrite, dx));
    if (norm)
      SLIM_RETURN_IF_ERROR(
          norm.apply(*device, {.x = x, .out = normed.address(), .rows = count, .width = hidden}));
    const DeviceLinear::Product product{&linear, logits.address(), vocab};
    SLIM_RETURN_IF_ERROR(DeviceLinear::multiply(
        *device, {.address = norm ? normed.address() : x, .tokens = count, .stride = hidden}, {&product, 1},
        scratch));
    LikelihoodArguments a{};
    a.logits = addressOf<float>(logits.address());
    a.labels = addressOf<int32_t>(tagsOnDevice.address() + first * sizeof(int32_t));
    a.draws = addressOf<const double>(draws.address() + first * sizeof(double));
    a.nll = addressOf<double>(losses.address() + first * sizeof(double));
    a.vocab = uint32_t(vocab);
    a.cap = head.logitSoftcap;
    SLIM_RETURN_IF_ERROR(device->launch("differentiateLikelihoods",
                                        {.gridX = unsigned(count), .threads = kLikelihoodThreads}, a,
                                        std::to_string(count) + " tokens × " + std::to_string(vocab)));
    SLIM_RETURN_IF_ERROR(linear.backward(*device, logits.address(), count, vocab,
                                         norm ? normed.address() : dx, hidden, false));
    if (norm)
      SLIM_RETURN_IF_ERROR(norm.backward(*device, {.x = x,
                                                   .outputGradients = normed.address(),
                                                   .inputGradients = dx,
                                                   .rows = count,
                                                   .width = hidden}));
    SLIM_RETURN_IF_ERROR(gradients->commit());
    SLIM_RETURN_IF_ERROR(device->synchronize());
  }
  std::vector<double> nll(tokens);
  const auto lock = device->use();
  SLIM_RETURN_IF_ERROR(device->copyToHost(nll.data(), losses.address(), losses.bytes()));
  SLIM_RETURN_IF_ERROR(device->copyToHost(tags.data(), tagsOnDevice.address(), tagsOnDevice.bytes()));
  out.nll = std::accumulate(nll.begin(), nll.end(), 0.0);
  out.count = tokens - tokens / sequenceLength;
  for (int32_t& tag : tags) tag = std::max(tag, -1);
  out.labels = std::move(tags);
  return Status::success();
}

}  // namespace slim::cuda
