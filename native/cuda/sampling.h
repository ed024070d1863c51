// Next tokens of rows of logits, drawn on a device as slim::Sampler draws them. Random numbers and recent
// tokens come from the host's samplers; tokens, not logits, come back.
#pragma once
#include <optional>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels/sampling_arguments.h"
#include "decoder/sampler.h"

namespace slim::cuda {

/// What the samplers of some rows want of the kernel.
struct SamplingInput {
  std::vector<SamplingRow> rows;
  std::vector<int32_t> recents;
  size_t likely = 0;  // tokens that are told beside the drawn ones

  /// The next row. Takes the sampler's next random number.
  void add(Sampler& sampler, size_t vocab);
};

/// Room on a device for as many rows, recent tokens and likely tokens. A recorded launch finds it where it
/// was.
class SamplingBuffers {
 public:
  struct Shape {
    size_t rows = 0, recents = 0, likely = 0;

    auto operator<=>(const Shape&) const = default;
  };
  /// Powers of two of tokens: few shapes.
  static Shape shapeOf(const SamplingInput& input);

  Status reserve(Device& device, const Shape& shape);
  Status upload(Device& device, const SamplingInput& input);
  /// Queues the kernel on logits [rows, vocab], which it changes.
  Status sample(Device& device, DeviceAddress logits, size_t vocab) const;
  /// Downloads what was drawn for `input`: nothing for rows that are not finite.
  Status read(Device& device, const SamplingInput& input,
              std::vector<std::optional<SampledToken>>& out) const;

 private:
  Shape shape_;
  DeviceBuffer<uint64_t> input_, output_;  // rows, then recent or likely tokens
  DeviceBuffer<float> recentLogits_;
};

}  // namespace slim::cuda
