#include "cuda/bit_allocation.h"

#include <algorithm>
#include <numeric>

#include "cuda/kernels/allocation_arguments.h"
#include "cuda/multiply.h"

namespace slim::cuda {
namespace {

// Elements of a tile of outputs: two such buffers stay in the second-level cache of a large chip, and their
// products fill it.
constexpr size_t kTileElements = size_t(4) << 20;

// What going to the next candidate adds to the outputs, X_low · D_lowᵀ + X_high · D_highᵀ, of all steps side
// by side: columns [place, place + width) of the gathered inputs and of the weights' differences.
struct Steps {
  struct Step {
    size_t place, width;
  };
  std::vector<Step> steps;
  std::vector<PlacedGroup> groups;
  size_t width = 0;
  DeviceBuffer<PlacedGroup> onDevice;
  DeviceBuffer<float> differences;  // [rows, width]
};

PlacedGroup placed(const Groups& groups, size_t group, size_t place, int bits, int otherBits) {
  return {uint32_t(groups.begin(group)), uint32_t(groups.width(group)), uint32_t(place), uint16_t(bits),
          uint16_t(otherBits)};
}

class Allocation {
 public:
  Allocation(Device& device, DeviceAddress w, size_t rows, const Groups& groups)
      : device_(device), w_(w), rows_(rows), groups_(groups) {}

  /// The first candidate's weights, and the steps to the others.
  Status prepare(const AllocationSearch& search, int bits) {
    std::vector<PlacedGroup> first;
    for (size_t g = 0; g < groups_.count(); ++g) {
      const int width = g == search.low(0) ? bits - 1 : g == search.high(0) ? bits + 1 : bits;
      first.push_back(placed(groups_, g, groups_.begin(g), width, 0));
    }
    DeviceBuffer<PlacedGroup> firstOnDevice;
    SLIM_RETURN_IF_ERROR(device_.allocate(rows_ * groups_.cols, "a candidate's weights", first_));
    SLIM_RETURN_IF_ERROR(round(first, groups_.cols, firstOnDevice, first_));
    for (size_t i = 1; i < search.candidates(); ++i) {
      const size_t low = search.low(i), high = search.high(i), place = steps_.width;
      steps_.groups.push_back(placed(groups_, low, place, bits - 1, bits));
      steps_.groups.push_back(placed(groups_, high, place + groups_.width(low), bits + 1, bits));
      steps_.width += groups_.width(low) + groups_.width(high);
      steps_.steps.push_back({place, steps_.width - place});
    }
    if (steps_.width == 0) return Status::success();
    SLIM_RETURN_IF_ERROR(
        device_.allocate(rows_ * steps_.width, "differences of candidates", steps_.differences));
    return round(steps_.groups, steps_.width, steps_.onDevice, steps_.differences);
  }

  /// KL(quantized ‖ original) of every candidate's outputs for every token [candidates, tokens].
  Status divergences(const DeviceSamples& samples, const CancelFlag& cancelled, std::vector<double>& out) {
    const size_t cols = groups_.cols, candidates = steps_.steps.size() + 1;
    const size_t tile = std::min(samples.tokens, std::max<size_t>(kTileElements / std::max(rows_, cols), 16));
    SLIM_RETURN_IF_ERROR(device_.allocate(tile * rows_, "outputs", original_));
    SLIM_RETURN_IF_ERROR(device_.allocate(tile * rows_, "a candidate's outputs", outputs_));
    if (steps_.width > 0)
      SLIM_RETURN_IF_ERROR(device_.allocate(tile * steps_.width, "inputs of groups", inputs_));
    DeviceBuffer<double> divergences;
    SLIM_RETURN_IF_ERROR(device_.allocate(candidates * samples.tokens, "divergences", divergences));
    for (size_t begin = 0; begin < samples.tokens; begin += tile) {
      if (cancelled.load()) return Status::aborted();
      const size_t tokens = std::min(tile, samples.tokens - begin);
      const DeviceAddress x = samples.data + begin * cols * sizeof(float);
      const auto inputs = DeviceOperand::rowMajor(x, cols);
      SLIM_RETURN_IF_ERROR(multiply(device_, tokens, rows_, cols, inputs, DeviceOperand::rowMajor(w_, cols),
                                    original_.address(), rows_));
      SLIM_RETURN_IF_ERROR(multiply(device_, tokens, rows_, cols, inputs,
                                    DeviceOperand::rowMajor(first_.address(), cols), outputs_.address(),
                                    rows_));
      SLIM_RETURN_IF_ERROR(softmax("logProbabilities", tokens, original_.address(), 0));
      if (steps_.width > 0) SLIM_RETURN_IF_ERROR(gather(x, tokens));
      for (size_t i = 0; i < candidates; ++i) {
        if (i > 0) SLIM_RETURN_IF_ERROR(step(steps_.steps[i - 1], tokens));
        SLIM_RETURN_IF_ERROR(softmax("divergences", tokens, outputs_.address(),
                                     divergences.address() + (i * samples.tokens + begin) * sizeof(double)));
      }
      SLIM_RETURN_IF_ERROR(device_.synchronize());  // so that cancelling waits for one tile alone
    }
    out.resize(divergences.count());
    return device_.copyToHost(out.data(), divergences.address(), divergences.bytes());
  }

 private:
  Status round(const std::vector<PlacedGroup>& groups, size_t outStride, DeviceBuffer<PlacedGroup>& onDevice,
               const DeviceBuffer<float>& out) {
    SLIM_RETURN_IF_ERROR(device_.upload(groups.data(), groups.size(), "groups", onDevice));
    RoundGroupsArguments a{};
    a.w = addressOf<const float>(w_);
    a.groups = addressOf<const PlacedGroup>(onDevice.address());
    a.out = addressOf<float>(out.address());
    a.outStride = outStride;
    a.rows = uint32_t(rows_);
    a.columns = uint32_t(groups_.cols);
    return device_.launch("roundGroups",
                          {.gridX = unsigned((rows_ + kRoundRows - 1) / kRoundRows),
                           .gridY = unsigned(groups.size()),
                           .threads = 32 * kRoundRows},
                          a, std::to_string(rows_) + " rows × " + std::to_string(groups.size()) + " groups");
  }

  /// The steps' inputs, side by side.
  Status gather(DeviceAddress x, size_t tokens) {
    GatherColumnsArguments a{};
    a.x = addressOf<const float>(x);
    a.groups = addressOf<const PlacedGroup>(steps_.onDevice.address());
    a.out = addressOf<float>(inputs_.address());
    a.outStride = steps_.width;
    a.columns = groups_.cols;
    return device_.launch(
        "gatherColumns", {.gridX = unsigned(tokens), .gridY = unsigned(steps_.groups.size()), .threads = 128},
        a, std::to_string(tokens) + " tokens × " + std::to_string(steps_.groups.size()) + " groups");
  }

  Status step(const Steps::Step& step, size_t tokens) {
    const size_t at = step.place * sizeof(float);
    return multiply(device_, tokens, rows_, step.width,
                    DeviceOperand::rowMajor(inputs_.address() + at, steps_.width),
                    DeviceOperand::rowMajor(steps_.differences.address() + at, steps_.width),
                    outputs_.address(), rows_, {.accumulate = true});
  }

  Status softmax(const char* kernel, size_t tokens, DeviceAddress y, DeviceAddress out) {
    SoftmaxArguments a{};
    a.y = addressOf<float>(y);
    a.reference = addressOf<const float>(original_.address());
    a.out = addressOf<double>(out);
    a.size = rows_;
    return device_.launch(kernel, {.gridX = unsigned(tokens), .threads = 256}, a,
                          std::to_string(tokens) + " tokens × " + std::to_string(rows_));
  }

  Device& device_;
  const DeviceAddress w_;
  const size_t rows_;
  const Groups groups_;
  DeviceBuffer<float> first_;  // [rows, cols]
  Steps steps_;
  DeviceBuffer<float> original_, outputs_;  // [tile, rows]: log-probabilities; a candidate's outputs
  DeviceBuffer<float> inputs_;              // [tile, steps' width]
};

}  // namespace

Status allocateBits(Device& device, DeviceAddress w, size_t rows, const Groups& groups,
                    const DeviceSamples& samples, const std::vector<double>& salience, int bits,
                    const CancelFlag& cancelled, BitAllocation& out) {
  const AllocationSearch search(salience, bits);
  SLIM_RETURN_IF_ERROR(search.check(samples.tokens));
  std::vector<double> divergences;
  if (search.candidates() > 0) {
    Allocation allocation(device, w, rows, groups);
    SLIM_RETURN_IF_ERROR(allocation.prepare(search, bits));
    SLIM_RETURN_IF_ERROR(allocation.divergences(samples, cancelled, divergences));
  }
  search.choose(divergences, samples.sequences, out);
  return Status::success();
}

}  // namespace slim::cuda
