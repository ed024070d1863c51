// The chain rule through a decoder block, from its last operation to its first (names as in block.cc).
#include "decoder/block_backward.h"

#include <algorithm>

#include "decoder/activation.h"
#include "decoder/attention_backward.h"

namespace slim {

// Some whole sequences on their way back.
struct DecoderBlock::BackwardTile {
  TokenTile tokens;
  size_t firstToken;
  const float* inputs;  // [tokens, hidden]
  float* gradients;     // [tokens, hidden]
  const BlockTaps* taps;
  const std::vector<GradientSink*>& sinks;
  BackwardScratch& scratch;
  ThreadPool& pool;

  size_t count() const { return tokens.tokens(); }
  void give(TapGradients gradients) const {
    gradients.firstToken = firstToken;
    gradients.tokens = count();
    for (GradientSink* sink : sinks) sink->add(gradients, pool);
  }
};

Status DecoderBlock::backward(const float* inputs, float* gradients, size_t tokens, size_t sequenceLength,
                              const BlockTaps* taps, const std::vector<GradientSink*>& sinks,
                              BackwardScratch& scratch, ThreadPool& pool, const CancelFlag& cancelled) const {
  if (sequenceLength == 0 || tokens % sequenceLength != 0)
    return Status::invalidArgument("sequenceLength", "a divisor of the " + std::to_string(tokens) + " tokens",
                                   std::to_string(sequenceLength));
  const size_t sequences = tokens / sequenceLength, hidden = spec_.hiddenSize;
  const size_t together =
      std::clamp<size_t>(tileTokens() / sequenceLength, 1, std::max<size_t>(sequences, 1));
  std::vector<KeyValues>& keyValues = scratch.forward.keyValues;
  keyValues.resize(together);
  for (KeyValues& kv : keyValues) SLIM_RETURN_IF_ERROR(kv.allocate(spec_, sequenceLength));
  scratch.forward.rotary.fill(spec_.rotary, 0, sequenceLength, pool);
  const bool parallel = spec_.residual == Residual::Parallel;
  for (size_t first = 0; first < sequences; first += together) {
    if (cancelled.load()) return Status::aborted();
    const size_t token = first * sequenceLength;
    const BackwardTile tile{{std::min(together, sequences - first), sequenceLength, 0},
                            token,
                            inputs + token * hidden,
                            gradients + token * hidden,
                            taps,
                            sinks,
                            scratch,
                            pool};
    recomputeAttention(tile);
    if (cancelled.load()) return Status::aborted();
    backwardMlp(tile);
    const float* mlpGradients = scratch.mlpInputGradients.data();
    if (!parallel)  // the MLP saw the states after the attention
      preMlpNorm_.backward(pool, tile.count(), scratch.forward.states.data(), mlpGradients, tile.gradients,
                           true);
    if (cancelled.load()) return Status::aborted();
    backwardAttention(tile);
    if (parallel) preMlpNorm_.backward(pool, tile.count(), tile.inputs, mlpGradients, tile.gradients, true);
    inputNorm_.backward(pool, tile.count(), tile.inputs, scratch.attentionInputGradients.data(),
                        tile.gradients, true);
  }
  return Status::success();
}

// normed, projected (where norms of q or k need it), qkv, attended, attentionOutput (where a norm follows),
// and the states that the MLP sees.
void DecoderBlock::recomputeAttention(const BackwardTile& tile) const {
  const size_t tokens = tile.count(), hidden = spec_.hiddenSize, width = spec_.qkvWidth(),
               queryWidth = spec_.queryWidth();
  BackwardScratch& s = tile.scratch;
  ThreadPool& pool = tile.pool;
  float* normed = s.forward.normed.reserve(tokens * hidden);
  inputNorm_.apply(pool, tokens, tile.inputs, hidden, normed, hidden);
  tap(tile.taps, &BlockTaps::qkv, normed, tokens, hidden, tile.tokens.sequences, pool);
  float* qkv = s.forward.qkv.reserve(tokens * width);
  projectQkv(pool, tokens, normed, qkv);
  if (queryNorm_ || keyNorm_) std::copy_n(qkv, tokens * width, s.projected.reserve(tokens * width));
  prepareHeads(pool, spec_, queryNorm_, keyNorm_, s.forward.rotary, tile.tokens, qkv,
               s.forward.keyValues.data());
  float* attended = s.forward.attended.reserve(tokens * queryWidth);
  attention(pool, spec_, tile.tokens, qkv, s.forward.keyValues.data(), attended, s.forward.attention);
  tap(tile.taps, &BlockTaps::o, attended, tokens, queryWidth, tile.tokens.sequences, pool);

  float* output = nullptr;
  if (postAttentionNorm_) {
    output = s.attentionOutput.reserve(tokens * hidden);
    o_.apply(pool, tokens, attended, queryWidth, output, hidden, false);
  }
  if (spec_.residual == Residual::Parallel) return;
  float* states = s.forward.states.reserve(tokens * hidden);
  if (postAttentionNorm_) {
    postAttentionNorm_.apply(pool, tokens, output, hidden, states, hidden);
    pool.parallelFor(tokens, [&](size_t t, int) {
      for (size_t i = t * hidden; i < (t + 1) * hidden; ++i) states[i] += tile.inputs[i];
    });
  } else {
    std::copy_n(tile.inputs, tokens * hidden, states);
    o_.apply(pool, tokens, attended, queryWidth, states, hidden, true);
  }
}

// mlpInputGradients of the block's gradients
void DecoderBlock::backwardMlp(const BackwardTile& tile) const {
  const size_t tokens = tile.count(), hidden = spec_.hiddenSize, inner = intermediate_, width = gateUpWidth();
  const bool gated = spec_.mlp != Mlp::Plain, parallel = spec_.residual == Residual::Parallel;
  BackwardScratch& s = tile.scratch;
  ThreadPool& pool = tile.pool;
  float* input = s.forward.mlpNormed.reserve(tokens * hidden);
  preMlpNorm_.apply(pool, tokens, parallel ? tile.inputs : s.forward.states.data(), hidden, input, hidden);
  tap(tile.taps, &BlockTaps::gateUp, input, tokens, hidden, tile.tokens.sequences, pool);
  float* gateUp = s.gateUp.reserve(tokens * width);
  projectGateUp(pool, tokens, input, gateUp);
  float* activated = s.forward.mlp.reserve(tokens * width);
  std::copy_n(gateUp, tokens * width, activated);
  activateRows(pool, spec_.activation, tokens, inner, activated, gated ? activated + inner : nullptr, width);
  tap(tile.taps, &BlockTaps::down, activated, tokens, width, tile.tokens.sequences, pool);

  const float* outputGradients = tile.gradients;
  if (postMlpNorm_) {
    float* output = s.mlpOutput.reserve(tokens * hidden);
    float* gradients = s.outputGradients.reserve(tokens * hidden);
    down_.apply(pool, tokens, activated, width, output, hidden, false);
    postMlpNorm_.backward(pool, tokens, output, tile.gradients, gradients, false);
    outputGradients = gradients;
  }
  tile.give({"down", 0, 0, activated, width, inner, outputGradients, hidden, hidden, {{"down", 0, hidden}}});
  float* gradients = s.gateUpGradients.reserve(tokens * width);
  down_.backward(pool, tokens, outputGradients, hidden, gradients + width - inner, width, false, s.decoded);
  activateRowsBackward(pool, spec_.activation, tokens, inner, gateUp, gated ? gateUp + inner : nullptr,
                       gradients, width);

  std::vector<TapGradients::Layer> layers;
  if (gateUp_) layers.push_back({"gateUp", 0, width});
  if (gate_) layers.push_back({"gate", 0, inner});
  if (up_) layers.push_back({"up", width - inner, inner});
  tile.give({"gateUp", 0, 0, input, hidden, hidden, gradients, width, width, std::move(layers)});
  float* inputGradients = s.mlpInputGradients.reserve(tokens * hidden);
  if (gateUp_)
    return gateUp_.backward(pool, tokens, gradients, width, inputGradients, hidden, false, s.decoded);
  up_.backward(pool, tokens, gradients + width - inner, width, inputGradients, hidden, false, s.decoded);
  if (gate_) gate_.backward(pool, tokens, gradients, width, inputGradients, hidden, true, s.decoded);
}

// attentionInputGradients of the block's gradients
void DecoderBlock::backwardAttention(const BackwardTile& tile) const {
  const size_t tokens = tile.count(), hidden = spec_.hiddenSize, width = spec_.qkvWidth(),
               queryWidth = spec_.queryWidth(), keyWidth = spec_.keyWidth();
  BackwardScratch& s = tile.scratch;
  ThreadPool& pool = tile.pool;
  const float *qkv = s.forward.qkv.data(), *attended = s.forward.attended.data();
  const float* outputGradients = tile.gradients;
  if (postAttentionNorm_) {
    float* gradients = s.outputGradients.reserve(tokens * hidden);
    postAttentionNorm_.backward(pool, tokens, s.attentionOutput.data(), tile.gradients, gradients, false);
    outputGradients = gradients;
  }
  tile.give(
      {"o", 0, 0, attended, queryWidth, queryWidth, outputGradients, hidden, hidden, {{"o", 0, hidden}}});
  float* attendedGradients = s.attendedGradients.reserve(tokens * queryWidth);
  o_.backward(pool, tokens, outputGradients, hidden, attendedGradients, queryWidth, false, s.decoded);
  float* gradients = s.qkvGradients.reserve(tokens * width);
  attentionBackward(pool, spec_, tile.tokens, qkv, attended, attendedGradients, gradients, s.attention);
  prepareHeadsBackward(pool, spec_, queryNorm_, keyNorm_, s.forward.rotary, tile.tokens, s.projected.data(),
                       gradients);

  std::vector<TapGradients::Layer> layers = {{"qkv", 0, width}};
  if (!qkv_)
    layers = {{"q", 0, queryWidth}, {"k", queryWidth, keyWidth}, {"v", queryWidth + keyWidth, keyWidth}};
  tile.give({"qkv", 0, 0, s.forward.normed.data(), hidden, hidden, gradients, width, width, layers});
  float* inputGradients = s.attentionInputGradients.reserve(tokens * hidden);
  if (qkv_) return qkv_.backward(pool, tokens, gradients, width, inputGradients, hidden, false, s.decoded);
  for (const auto& [linear, layer] : {std::pair(&q_, layers[0]), {&k_, layers[1]}, {&v_, layers[2]}})
    linear->backward(pool, tokens, gradients + layer.firstRow, width, inputGradients, hidden, linear != &q_,
                     s.decoded);
}

}  // namespace slim
