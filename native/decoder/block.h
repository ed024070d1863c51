// The decoder block: one parametric block for every family; its spec and its weights say what it does.
#pragma once
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "core/thread_pool.h"
#include "decoder/attention.h"
#include "decoder/block_spec.h"
#include "decoder/cached_attention.h"
#include "decoder/float_buffer.h"
#include "decoder/linear.h"
#include "decoder/norm.h"
#include "decoder/stages.h"
#include "quant/hessian.h"

namespace slim {

/// Weights by role (LinearRole and NormRole in lib/native/addon.ts); `bias` may be null.
struct BlockWeights {
  struct LinearWeights {
    Weight weight;
    TensorPtr bias;
  };
  struct NormWeights {
    TensorPtr weight, bias;
  };
  std::map<std::string, LinearWeights> linears;
  std::map<std::string, NormWeights> norms;
};

/// Hessians of the four inputs of a block's linear layers; null: not wanted.
struct BlockTaps {
  std::shared_ptr<Hessian> qkv, o, gateUp, down;
};

/// Adds x [tokens] of row stride `stride`, `sequences` sequences' ends among them, to a tap's Hessian.
void tap(const BlockTaps* taps, std::shared_ptr<Hessian> BlockTaps::*name, const float* x, size_t tokens,
         size_t stride, size_t sequences, ThreadPool& pool);

struct BackwardScratch;  // decoder/block_backward.h
class GradientSink;      // decoder/gradients.h

/// What a forward pass needs beside the states; reused from block to block.
struct BlockScratch {
  FloatBuffer states, normed, mlpNormed, qkv, attended, output, mlp;
  IntegerInput activations;
  bool int8 = false;  // the block is interleaved, and its packed layers take their inputs in int8
  RotaryTable rotary;
  std::vector<FloatBuffer> attention;
  std::vector<KeyValues> keyValues;
};

/// What a batch of new tokens needs beside the states; reused from block to block and from step to step.
struct StepScratch {
  BlockScratch block;
  CachedAttentionScratch attention;
};

/// A block's layers by role; those that its family lacks are empty.
struct BlockLayers {
  const Linear &q, &k, &v, &qkv, &o, &gate, &up, &gateUp, &down;
  const Norm &input, &postAttention, &preMlp, &postMlp, &query, &key;
};

class DecoderBlock {
 public:
  /// Checks every weight against the spec; the error names the role.
  static Status make(BlockSpec spec, const BlockWeights& weights, std::shared_ptr<DecoderBlock>& out);

  const BlockSpec& spec() const { return spec_; }
  size_t intermediateSize() const { return intermediate_; }
  BlockLayers layers() const {
    return {q_,
            k_,
            v_,
            qkv_,
            o_,
            gate_,
            up_,
            gateUp_,
            down_,
            inputNorm_,
            postAttentionNorm_,
            preMlpNorm_,
            postMlpNorm_,
            queryNorm_,
            keyNorm_};
  }

  /// Runs on states [tokens, hidden] float32, whole sequences of `sequenceLength` tokens one after the other,
  /// in tiles. Without taps, states become the block's output. With taps, the inputs of the linear layers are
  /// added to the Hessians, the last product is left out and states stay as they are.
  Status forward(float* states, size_t tokens, size_t sequenceLength, const BlockTaps* taps,
                 BlockScratch& scratch, ThreadPool& pool, const CancelFlag& cancelled) const;

  /// One stage over all tokens of whole sequences (block_stages.cc), with the weights as they are now. The
  /// stages are run in their order, each after the other.
  Status runStage(Stage stage, const StagedPass& pass, size_t tokens, size_t sequenceLength,
                  const StageTap& tap, ThreadPool& pool, const CancelFlag& cancelled) const;

  /// Runs on states [rows, hidden] of a batch of new tokens, row r at the r-th position of `rotary`; this is
  /// the `index`-th block of their caches.
  void step(float* states, size_t rows, const std::vector<SequenceChunk>& chunks, size_t index,
            const RotaryTable& rotary, StepScratch& scratch, ThreadPool& pool) const;

  /// Makes what passes with int8 activations read, at the first call.
  Status interleave(ThreadPool& pool, const CancelFlag& cancelled);
  /// The layers that share an input, which projectQkv, addOutput and projectGateUp multiply in one call, in
  /// the order of a pass.
  std::vector<std::vector<const Linear*>> calls() const;

  /// The backward pass (block_backward.cc). `inputs` [tokens, hidden] are the states that entered the block;
  /// `gradients` come as ∂L/∂output and leave as ∂L/∂input. Values are recomputed, some whole sequences at a
  /// time. Each sink is given the gradients of the linear layers; the inputs of the linear layers are added
  /// to the Hessians of `taps`, if any.
  Status backward(const float* inputs, float* gradients, size_t tokens, size_t sequenceLength,
                  const BlockTaps* taps, const std::vector<GradientSink*>& sinks, BackwardScratch& scratch,
                  ThreadPool& pool, const CancelFlag& cancelled) const;

 private:
  struct BackwardTile;

  struct StageInput;

  size_t tileTokens() const;
  /// Calls visit(tile, its first token, how many sequences end in it) for tiles of whole sequences, or chunk
  /// after chunk of longer ones; the scratches get room for their keys and values.
  using TileVisit = std::function<void(const TokenTile&, size_t, size_t)>;
  Status forEachTile(size_t tokens, size_t sequenceLength, std::initializer_list<BlockScratch*> scratches,
                     const CancelFlag& cancelled, const TileVisit& visit) const;
  StageInput runStageTile(Stage stage, const StagedPass& pass, size_t firstToken, const TokenTile& tile,
                          BlockScratch& scratch, ThreadPool& pool) const;
  /// Makes the values that the heads attend to [tokens, queryWidth] of projected q, k, v.
  using Attend = std::function<void(float* qkv, float* attended)>;
  Attend attendTile(const TokenTile& tile, KeyValues* keyValues, BlockScratch& scratch,
                    ThreadPool& pool) const;
  void runRows(float* states, size_t tokens, const Attend& attend, const BlockTaps* taps,
               size_t endingSequences, BlockScratch& scratch, ThreadPool& pool) const;
  void runAttention(float* states, size_t tokens, const Attend& attend, const BlockTaps* taps,
                    size_t endingSequences, BlockScratch& scratch, ThreadPool& pool) const;
  void runMlp(float* states, const float* input, size_t tokens, const BlockTaps* taps, size_t endingSequences,
              BlockScratch& scratch, ThreadPool& pool) const;
  void projectQkv(ThreadPool& pool, size_t tokens, const float* normed, float* qkv,
                  IntegerInput* int8 = nullptr) const;
  void projectGateUp(ThreadPool& pool, size_t tokens, const float* input, float* inner,
                     IntegerInput* int8 = nullptr) const;
  size_t gateUpWidth() const { return spec_.mlp == Mlp::Plain ? intermediate_ : 2 * intermediate_; }
  void backwardMlp(const BackwardTile& tile) const;
  void recomputeAttention(const BackwardTile& tile) const;
  void backwardAttention(const BackwardTile& tile) const;
  void addOutput(const Linear& linear, const Norm& norm, size_t tokens, const float* x, size_t xStride,
                 float* states, BlockScratch& scratch, ThreadPool& pool) const;

  BlockSpec spec_;
  size_t intermediate_ = 0;
  std::mutex interleaving_;
  Linear q_, k_, v_, qkv_, o_, gate_, up_, gateUp_, down_;
  Norm inputNorm_, postAttentionNorm_, preMlpNorm_, postMlpNorm_, queryNorm_, keyNorm_;
};

}  // namespace slim
