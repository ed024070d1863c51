// A decoder block on a device.
#pragma once
#include <functional>
#include <memory>
#include <string>

#include "cuda/device_pass.h"
#include "cuda/kernels/decoder_arguments.h"
#include "decoder/block.h"
#include "decoder/gradients.h"

namespace slim::cuda {

/// The layers that share an input, in the order in which a block runs them.
enum class BlockPart { Qkv, O, GateUp, Down };
constexpr BlockPart kBlockParts[] = {BlockPart::Qkv, BlockPart::O, BlockPart::GateUp, BlockPart::Down};

/// Sees the input of a part's layers, rows `stride` apart.
using InputVisit = std::function<Status(BlockPart, DeviceAddress x, size_t stride)>;

/// As TapGradients: ∂L/∂y [tokens, rows] of the layers of a tap side by side.
struct DeviceTapGradients {
  const char* tap;
  DeviceAddress outputs;
  size_t tokens, rows;
  std::vector<TapGradients::Layer> layers;
};
using GradientVisit = std::function<Status(const DeviceTapGradients&)>;

/// The values of a backward pass beside those of the forward pass.
struct BackwardValues {
  /// q, k, v before norms and turns; the activated values; scores of some queries of all heads, and their
  /// gradients.
  DeviceBuffer<float> projected, activated, scores, scoreGradients;
  /// Gradients by: the output of o and of down, the attended values, q k v, gate and up, the input of the
  /// attention and of the MLP.
  DeviceBuffer<float> outputGradients, attendedGradients, qkvGradients, gateUpGradients,
      attentionInputGradients, mlpInputGradients;
};

class DeviceBlock {
 public:
  /// All of a block. What the kernels do not do is refused. `index` names the block in errors. The caller
  /// does not hold device.use().
  static Status make(const std::shared_ptr<Device>& device, const DecoderBlock& source, size_t index,
                     ThreadPool& pool, const CancelFlag& cancelled, DeviceBlock& out);
  /// A block named `name` without its linear layers, which load() brings.
  static Status begin(Device& device, const DecoderBlock& source, std::string name, Precision precision,
                      DeviceBlock& out);
  Status load(const std::shared_ptr<Device>& device, const DecoderBlock& source, BlockPart part,
              ThreadPool& pool, const CancelFlag& cancelled);

  const BlockSpec& spec() const { return spec_; }
  size_t intermediateSize() const { return intermediate_; }
  /// Heads that share a tile of the attention.
  size_t headsOfTile() const;
  /// Widths that a pass needs for this block, taken into `widths`.
  void widen(PassWidths& widths) const;
  /// Whether an output is added to the states as it is, and not through a norm.
  bool addsAttention() const { return !postAttention_; }
  bool addsMlp() const { return !postMlp_; }

  /// Where a block finds the angles of positions, and its place in the pages of a cache.
  struct Position {
    DeviceAddress rotary = 0;
    size_t blockOffset = 0;
  };
  /// Queues the block on the states [rows, hidden] of a pass. With `visit`, which sees all inputs of layers,
  /// the last product is left out. The caller holds device.use(), here and below.
  Status run(Device& device, DevicePass& pass, DeviceAddress states, const Position& position,
             const InputVisit& visit = nullptr) const;

  // The pieces of run(), for passes that halt between them.
  /// pass.normed, pass.mlpNormed = norm(states)
  Status normInput(Device& device, DevicePass& pass, DeviceAddress states) const;
  Status normForMlp(Device& device, DevicePass& pass, DeviceAddress states) const;
  /// attended [rows, queryWidth] of pass.normed
  Status attend(Device& device, DevicePass& pass, const Position& position, DeviceAddress attended) const;
  /// inner [rows, stride] of pass.mlpNormed; `inner` may be pass.inner, of stride gateUpWidth().
  Status activate(Device& device, DevicePass& pass, DeviceAddress inner, size_t stride) const;
  /// states += norm(o attended), states += norm(down inner)
  Status addAttention(Device& device, DevicePass& pass, DeviceAddress attended, DeviceAddress states) const;
  Status addMlp(Device& device, DevicePass& pass, DeviceAddress inner, size_t stride,
                DeviceAddress states) const;

  /// Some whole sequences on their way back.
  struct BackwardTile {
    Device& device;
    DevicePass& pass;
    BackwardValues& values;
    Position position;
    size_t sequences, length;
    size_t queries;           // of every head, whose scores lie in memory at once
    DeviceAddress inputs;     // [rows, hidden]
    DeviceAddress gradients;  // [rows, hidden]: ∂L/∂output, and then ∂L/∂inputs
    const InputVisit& visitInput;
    const GradientVisit& visitGradients;

    size_t rows() const { return sequences * length; }
  };
  /// As DecoderBlock::backward, of a tile of a float32 block (device_block_backward.cc).
  Status backward(const BackwardTile& tile) const;
  /// Floats that a token takes in BackwardValues, scores left out.
  size_t backwardWidth() const;
  size_t gateUpWidth() const { return spec_.mlp == Mlp::Plain ? intermediate_ : 2 * intermediate_; }

 private:
  Status projectQkv(Device& device, DevicePass& pass) const;
  Status prepareHeads(Device& device, DevicePass& pass, const Position& position) const;
  Status attendHeads(Device& device, DevicePass& pass, size_t blockOffset, DeviceAddress out) const;
  PrepareHeadsArguments prepareArguments(const DevicePass& pass, const Position& position) const;
  Status reserveBackward(const BackwardTile& tile) const;
  Status recomputeAttention(const BackwardTile& tile) const;
  Status backwardMlp(const BackwardTile& tile) const;
  Status backwardAttention(const BackwardTile& tile) const;
  Status backwardHeads(const BackwardTile& tile) const;
  Status backwardQueries(const BackwardTile& tile, size_t firstRow, size_t member, size_t first) const;
  /// states += norm(linear x)
  Status addOutput(Device& device, DevicePass& pass, const DeviceLinear& linear, const DeviceNorm& norm,
                   const DeviceActivations& x, DeviceAddress states) const;

  BlockSpec spec_;
  std::string name_;
  Precision precision_ = Precision::Tf32;
  size_t intermediate_ = 0;
  DeviceLinear q_, k_, v_, qkv_, o_, gate_, up_, gateUp_, down_;
  DeviceNorm input_, postAttention_, preMlp_, postMlp_, query_, key_;
};

}  // namespace slim::cuda
