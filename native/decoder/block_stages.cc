#include <algorithm>

#include "decoder/activation.h"
#include "decoder/block.h"

namespace slim {

// The input of a stage's layers at a tile's tokens.
struct DecoderBlock::StageInput {
  const float* x;  // [tokens], rows `stride` apart
  size_t stride;
  /// What the layer's output is added to; null where it is not, or where a norm stands between.
  const float* states = nullptr;
};

Status DecoderBlock::runStage(Stage stage, const StagedPass& pass, size_t tokens, size_t sequenceLength,
                              const StageTap& tap, ThreadPool& pool, const CancelFlag& cancelled) const {
  BlockScratch scratch, originalScratch;
  const auto visit = [&](const TokenTile& tile, size_t firstToken, size_t endingSequences) {
    StageInput original{};
    if (tap.original)
      original = tap.original->runStageTile(stage, tap.originalPass, firstToken, tile, originalScratch, pool);
    const StageInput input = runStageTile(stage, pass, firstToken, tile, scratch, pool);
    if (stage != Stage::End && tap.hessian)
      tap.hessian->add(input.x, tile.tokens(), input.stride, endingSequences, pool,
                       {original.x, original.states, input.states, spec_.hiddenSize});
  };
  return forEachTile(tokens, sequenceLength, {&scratch, &originalScratch}, cancelled, visit);
}

// x ← x + attention(norm x), then x ← x + mlp(norm' x); in parallel: x ← x + attention(norm x) + mlp(norm'
// x).
DecoderBlock::StageInput DecoderBlock::runStageTile(Stage stage, const StagedPass& pass, size_t firstToken,
                                                    const TokenTile& tile, BlockScratch& scratch,
                                                    ThreadPool& pool) const {
  const size_t tokens = tile.tokens(), hidden = spec_.hiddenSize, queryWidth = spec_.queryWidth();
  const bool parallel = spec_.residual == Residual::Parallel;
  float* states = pass.states + firstToken * hidden;
  float* attended = pass.attended + firstToken * queryWidth;
  float* inner = pass.inner + firstToken * intermediate_;
  const auto addAttention = [&] {
    addOutput(o_, postAttentionNorm_, tokens, attended, queryWidth, states, scratch, pool);
  };
  float* normed = scratch.normed.reserve(tokens * hidden);
  switch (stage) {
    case Stage::Qkv:
      inputNorm_.apply(pool, tokens, states, hidden, normed, hidden);
      return {normed, hidden};
    case Stage::O: {
      inputNorm_.apply(pool, tokens, states, hidden, normed, hidden);
      float* qkv = scratch.qkv.reserve(tokens * spec_.qkvWidth());
      projectQkv(pool, tokens, normed, qkv);
      attendTile(tile, scratch.keyValues.data(), scratch, pool)(qkv, attended);
      return {attended, queryWidth, postAttentionNorm_ ? nullptr : states};
    }
    case Stage::GateUp:
      if (!parallel) addAttention();
      preMlpNorm_.apply(pool, tokens, states, hidden, normed, hidden);
      return {normed, hidden};
    case Stage::Down: {
      preMlpNorm_.apply(pool, tokens, states, hidden, normed, hidden);
      const size_t width = gateUpWidth();
      float* gateUp = scratch.mlp.reserve(tokens * width);
      projectGateUp(pool, tokens, normed, gateUp);
      const float* up = width == intermediate_ ? nullptr : gateUp + intermediate_;
      activateRows(pool, spec_.activation, tokens, intermediate_, gateUp, up, width);
      pool.parallelFor(tokens, [&](size_t t, int) {
        std::copy_n(gateUp + t * width, intermediate_, inner + t * intermediate_);
      });
      if (parallel) addAttention();
      return {inner, intermediate_, postMlpNorm_ ? nullptr : states};
    }
    case Stage::End:
      addOutput(down_, postMlpNorm_, tokens, inner, intermediate_, states, scratch, pool);
      return {};
  }
  return {};
}

}  // namespace slim
