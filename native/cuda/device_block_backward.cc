// The chain rule through a decoder block on a device, from its last operation to its first
// (decoder/block_backward.cc).
#include <algorithm>

#include "cuda/device_block.h"
#include "cuda/kernels/backward_arguments.h"
#include "cuda/multiply.h"
#include "decoder/attention.h"

namespace slim::cuda {
namespace {

/// Rows of scores lie on 16-byte vectors.
size_t paddedKeys(size_t keys) { return divideUp(keys, 4) * 4; }

}  // namespace

size_t DeviceBlock::backwardWidth() const {
  return 2 * spec_.qkvWidth() + spec_.queryWidth() + intermediate_ + gateUpWidth() + 3 * spec_.hiddenSize;
}

Status DeviceBlock::backward(const BackwardTile& tile) const {
  const bool parallel = spec_.residual == Residual::Parallel;
  BackwardValues& values = tile.values;
  const auto throughNorm = [&](const DeviceNorm& norm, DeviceAddress x,
                               const DeviceBuffer<float>& gradients) {
    return norm.backward(tile.device, {.x = x,
                                       .outputGradients = gradients.address(),
                                       .inputGradients = tile.gradients,
                                       .rows = tile.rows(),
                                       .width = spec_.hiddenSize,
                                       .accumulate = true});
  };
  SLIM_RETURN_IF_ERROR(reserveBackward(tile));
  SLIM_RETURN_IF_ERROR(recomputeAttention(tile));
  SLIM_RETURN_IF_ERROR(backwardMlp(tile));
  if (!parallel)  // the MLP saw the states after the attention
    SLIM_RETURN_IF_ERROR(throughNorm(preMlp_, tile.pass.states.address(), values.mlpInputGradients));
  SLIM_RETURN_IF_ERROR(backwardAttention(tile));
  if (parallel) SLIM_RETURN_IF_ERROR(throughNorm(preMlp_, tile.inputs, values.mlpInputGradients));
  return throughNorm(input_, tile.inputs, values.attentionInputGradients);
}

Status DeviceBlock::reserveBackward(const BackwardTile& tile) const {
  BackwardValues& v = tile.values;
  const size_t rows = tile.rows(), hidden = spec_.hiddenSize,
               scores = spec_.kvHeads * std::min(tile.queries, tile.length) * paddedKeys(tile.length);
  const std::string about = "the gradients of " + std::to_string(rows) + " tokens";
  const std::pair<DeviceBuffer<float>*, size_t> buffers[] = {
      {&v.projected, query_ || key_ ? rows * spec_.qkvWidth() : 0},
      {&v.activated, rows * intermediate_},
      {&v.scores, scores},
      {&v.scoreGradients, scores},
      {&v.outputGradients, postAttention_ || postMlp_ ? rows * hidden : 0},
      {&v.attendedGradients, rows * spec_.queryWidth()},
      {&v.qkvGradients, rows * spec_.qkvWidth()},
      {&v.gateUpGradients, rows * gateUpWidth()},
      {&v.attentionInputGradients, rows * hidden},
      {&v.mlpInputGradients, rows * hidden}};
  for (const auto& [buffer, count] : buffers)
    SLIM_RETURN_IF_ERROR(cuda::reserve(tile.device, count, about, *buffer));
  return Status::success();
}

// pass.normed, projected (where norms of q or k need it), pass.qkv, pass.attended, pass.output (where a norm
// follows), and pass.states, which the MLP sees.
Status DeviceBlock::recomputeAttention(const BackwardTile& tile) const {
  Device& device = tile.device;
  DevicePass& pass = tile.pass;
  const size_t hidden = spec_.hiddenSize;
  SLIM_RETURN_IF_ERROR(normInput(device, pass, tile.inputs));
  SLIM_RETURN_IF_ERROR(tile.visitInput(BlockPart::Qkv, pass.normed.address(), hidden));
  SLIM_RETURN_IF_ERROR(projectQkv(device, pass));
  if (query_ || key_)
    SLIM_RETURN_IF_ERROR(device.copyOnDevice(tile.values.projected.address(), pass.qkv.address(),
                                             tile.rows() * spec_.qkvWidth() * sizeof(float)));
  SLIM_RETURN_IF_ERROR(prepareHeads(device, pass, tile.position));
  SLIM_RETURN_IF_ERROR(attendHeads(device, pass, tile.position.blockOffset, pass.attended.address()));
  SLIM_RETURN_IF_ERROR(tile.visitInput(BlockPart::O, pass.attended.address(), spec_.queryWidth()));
  if (spec_.residual == Residual::Parallel && !postAttention_) return Status::success();
  SLIM_RETURN_IF_ERROR(
      device.copyOnDevice(pass.states.address(), tile.inputs, tile.rows() * hidden * sizeof(float)));
  return addAttention(device, pass, pass.attended.address(), pass.states.address());
}

// mlpInputGradients of the block's gradients
Status DeviceBlock::backwardMlp(const BackwardTile& tile) const {
  Device& device = tile.device;
  DevicePass& pass = tile.pass;
  BackwardValues& values = tile.values;
  const size_t rows = tile.rows(), hidden = spec_.hiddenSize, width = gateUpWidth();
  const DeviceAddress activated = values.activated.address();
  SLIM_RETURN_IF_ERROR(
      normForMlp(device, pass, spec_.residual == Residual::Parallel ? tile.inputs : pass.states.address()));
  SLIM_RETURN_IF_ERROR(tile.visitInput(BlockPart::GateUp, pass.mlpNormed.address(), hidden));
  SLIM_RETURN_IF_ERROR(activate(device, pass, activated, intermediate_));
  SLIM_RETURN_IF_ERROR(tile.visitInput(BlockPart::Down, activated, intermediate_));

  DeviceAddress outputGradients = tile.gradients;
  if (postMlp_) {
    // The output makes way for its gradients.
    outputGradients = values.outputGradients.address();
    const DeviceLinear::Product product{&down_, outputGradients, hidden};
    SLIM_RETURN_IF_ERROR(DeviceLinear::multiply(device, {activated, ActivationType::F32, rows, intermediate_},
                                                {&product, 1}, pass.products));
    SLIM_RETURN_IF_ERROR(
        postMlp_.backward(device, {outputGradients, tile.gradients, outputGradients, rows, hidden}));
  }
  SLIM_RETURN_IF_ERROR(tile.visitGradients({"down", outputGradients, rows, hidden, {{"down", 0, hidden}}}));
  const DeviceAddress gradients = values.gateUpGradients.address(),
                      up = gradients + (width - intermediate_) * sizeof(float);
  SLIM_RETURN_IF_ERROR(down_.backward(device, outputGradients, rows, hidden, up, width, false));
  ActivateBackwardArguments a{};
  a.x = addressOf<const float>(pass.inner.address());
  a.gradients = addressOf<float>(gradients);
  a.stride = width;
  a.width = uint32_t(intermediate_);
  a.gated = spec_.mlp != Mlp::Plain;
  a.activation = uint32_t(spec_.activation);
  SLIM_RETURN_IF_ERROR(device.launch(
      "activateRowsBackward",
      {.gridX = unsigned(rows), .gridY = unsigned(divideUp(intermediate_, 256)), .threads = 256}, a,
      std::to_string(rows) + " tokens × " + std::to_string(intermediate_)));

  std::vector<TapGradients::Layer> layers;
  if (gateUp_) layers.push_back({"gateUp", 0, width});
  if (gate_) layers.push_back({"gate", 0, intermediate_});
  if (up_) layers.push_back({"up", width - intermediate_, intermediate_});
  SLIM_RETURN_IF_ERROR(tile.visitGradients({"gateUp", gradients, rows, width, std::move(layers)}));
  const DeviceAddress to = values.mlpInputGradients.address();
  if (gateUp_) return gateUp_.backward(device, gradients, rows, width, to, hidden, false);
  SLIM_RETURN_IF_ERROR(up_.backward(device, up, rows, width, to, hidden, false));
  return gate_ ? gate_.backward(device, gradients, rows, width, to, hidden, true) : Status::success();
}

// attentionInputGradients of the block's gradients
Status DeviceBlock::backwardAttention(const BackwardTile& tile) const {
  Device& device = tile.device;
  BackwardValues& values = tile.values;
  const size_t rows = tile.rows(), hidden = spec_.hiddenSize, width = spec_.qkvWidth(),
               queryWidth = spec_.queryWidth(), keyWidth = spec_.keyWidth();
  DeviceAddress outputGradients = tile.gradients;
  if (postAttention_) {
    outputGradients = values.outputGradients.address();
    SLIM_RETURN_IF_ERROR(postAttention_.backward(
        device, {tile.pass.output.address(), tile.gradients, outputGradients, rows, hidden}));
  }
  SLIM_RETURN_IF_ERROR(tile.visitGradients({"o", outputGradients, rows, hidden, {{"o", 0, hidden}}}));
  SLIM_RETURN_IF_ERROR(o_.backward(device, outputGradients, rows, hidden, values.attendedGradients.address(),
                                   queryWidth, false));
  SLIM_RETURN_IF_ERROR(backwardHeads(tile));

  const DeviceAddress gradients = values.qkvGradients.address(),
                      to = values.attentionInputGradients.address();
  std::vector<TapGradients::Layer> layers = {{"qkv", 0, width}};
  if (!qkv_)
    layers = {{"q", 0, queryWidth}, {"k", queryWidth, keyWidth}, {"v", queryWidth + keyWidth, keyWidth}};
  SLIM_RETURN_IF_ERROR(tile.visitGradients({"qkv", gradients, rows, width, layers}));
  if (qkv_) return qkv_.backward(device, gradients, rows, width, to, hidden, false);
  for (const auto& [linear, layer] : {std::pair(&q_, layers[0]), {&k_, layers[1]}, {&v_, layers[2]}})
    SLIM_RETURN_IF_ERROR(linear->backward(device, gradients + layer.firstRow * sizeof(float), rows, width, to,
                                          hidden, linear != &q_));
  return Status::success();
}

// qkvGradients of attendedGradients
Status DeviceBlock::backwardHeads(const BackwardTile& tile) const {
  const DeviceBuffer<float>& gradients = tile.values.qkvGradients;
  SLIM_RETURN_IF_ERROR(
      tile.device.fill(gradients.address(), 0, tile.rows() * spec_.qkvWidth() * sizeof(float)));
  for (size_t sequence = 0; sequence < tile.sequences; ++sequence)
    for (size_t member = 0; member < spec_.heads / spec_.kvHeads; ++member)
      for (size_t first = 0; first < tile.length; first += tile.queries)
        SLIM_RETURN_IF_ERROR(backwardQueries(tile, sequence * tile.length, member, first));
  PrepareHeadsBackwardArguments a{};
  a.heads = prepareArguments(tile.pass, tile.position);
  a.heads.qkv = addressOf<float>(gradients.address());
  a.projected = addressOf<const float>(tile.values.projected.address());
  return tile.device.launch("prepareHeadsBackward",
                            {.gridX = unsigned(tile.rows()),
                             .gridY = unsigned(divideUp(spec_.heads + spec_.kvHeads, kPrepareWarps)),
                             .threads = 32 * kPrepareWarps},
                            a, std::to_string(tile.rows()) + " tokens");
}

// The attention of the queries from position `first` on of the sequence that begins at `firstRow`, of one
// member of each group of heads that share keys: kvHeads products in one launch, whose sums do not meet.
Status DeviceBlock::backwardQueries(const BackwardTile& tile, size_t firstRow, size_t member,
                                    size_t first) const {
  Device& device = tile.device;
  const HeadOffsets offsets(spec_);
  const size_t group = spec_.heads / spec_.kvHeads, dim = spec_.headDim, width = spec_.qkvWidth(),
               outWidth = spec_.queryWidth(), window = spec_.attention.window,
               queries = std::min(tile.queries, tile.length - first),
               begin = window && first >= window ? first + 1 - window : 0, keys = first + queries - begin,
               stride = paddedKeys(keys);
  // From one head of keys to the next.
  const size_t queriesApart = offsets.query(group) - offsets.query(0),
               keysApart = offsets.key(1) - offsets.key(0), outApart = group * dim,
               scoresApart = queries * stride;
  const auto at = [](const DeviceBuffer<float>& values, size_t index) {
    return values.address() + index * sizeof(float);
  };
  const size_t queryAt = (firstRow + first) * width + offsets.query(member),
               keyAt = (firstRow + begin) * width + offsets.key(0),
               valueAt = (firstRow + begin) * width + offsets.value(0),
               outAt = (firstRow + first) * outWidth + member * dim;
  const BackwardValues& values = tile.values;
  const DeviceBuffer<float>&qkv = tile.pass.qkv, &gradients = values.qkvGradients;
  const DeviceAddress scores = values.scores.address(), scoreGradients = values.scoreGradients.address(),
                      out = at(tile.pass.attended, outAt), outGradients = at(values.attendedGradients, outAt);
  const auto batch = [&](size_t aApart, size_t bApart, size_t cApart, bool accumulate = false) {
    MultiplyOptions options;
    options.accumulate = accumulate;
    options.batch = {spec_.kvHeads, aApart, bApart, cApart};
    return options;
  };
  using Operand = DeviceOperand;

  // S = Q Kᵀ, ∂L/∂P = ∂L/∂out Vᵀ
  SLIM_RETURN_IF_ERROR(multiply(device, queries, keys, dim, Operand::rowMajor(at(qkv, queryAt), width),
                                Operand::rowMajor(at(qkv, keyAt), width), scores, stride,
                                batch(queriesApart, keysApart, scoresApart)));
  SLIM_RETURN_IF_ERROR(multiply(device, queries, keys, dim, Operand::rowMajor(outGradients, outWidth),
                                Operand::rowMajor(at(qkv, valueAt), width), scoreGradients, stride,
                                batch(outApart, keysApart, scoresApart)));
  SoftmaxBackwardArguments a{};
  a.scores = addressOf<float>(scores);
  a.gradients = addressOf<float>(scoreGradients);
  a.out = addressOf<const float>(out);
  a.outGradients = addressOf<const float>(outGradients);
  a.stride = stride;
  a.outStride = outWidth;
  a.headStride = outApart;
  a.headDim = uint32_t(dim);
  a.keys = uint32_t(keys);
  a.firstPosition = uint32_t(first);
  a.firstKey = uint32_t(begin);
  a.window = uint32_t(window);
  a.cap = spec_.attention.softcap;
  SLIM_RETURN_IF_ERROR(device.launch(
      "softmaxBackward", {.gridX = unsigned(queries), .gridY = unsigned(spec_.kvHeads), .threads = 256}, a,
      std::to_string(queries) + " queries of " + std::to_string(keys) + " keys"));
  // ∂L/∂Q = ∂L/∂S K, ∂L/∂K += ∂L/∂Sᵀ Q, ∂L/∂V += Pᵀ ∂L/∂out
  SLIM_RETURN_IF_ERROR(multiply(device, queries, dim, keys, Operand::rowMajor(scoreGradients, stride),
                                Operand::columnMajor(at(qkv, keyAt), width), at(gradients, queryAt), width,
                                batch(scoresApart, keysApart, queriesApart)));
  SLIM_RETURN_IF_ERROR(multiply(device, keys, dim, queries, Operand::columnMajor(scoreGradients, stride),
                                Operand::columnMajor(at(qkv, queryAt), width), at(gradients, keyAt), width,
                                batch(scoresApart, queriesApart, keysApart, true)));
  return multiply(device, keys, dim, queries, Operand::columnMajor(scores, stride),
                  Operand::columnMajor(outGradients, outWidth), at(gradients, valueAt), width,
                  batch(scoresApart, outApart, keysApart, true));
}

}  // namespace slim::cuda
