#include "decoder/block.h"

#include <algorithm>

#include "decoder/activation.h"

namespace slim {
namespace {

// A tile's scratch stays under this many bytes (SmolLM2-135M: 2048 tokens, LLaMA-7B: 500): large enough that
// packing the weights for a product is a few per cent of it, small beside the weights of a model.
constexpr size_t kScratchBytes = size_t(128) << 20;
constexpr size_t kLeastTokens = 256, kMostTokens = 2048;

Status checkSpec(const BlockSpec& spec) {
  const auto positive = [](const char* name, size_t value) {
    return value > 0 ? Status::success() : Status::invalidArgument(name, "a whole number from 1 up", "0");
  };
  SLIM_RETURN_IF_ERROR(positive("spec.hiddenSize", spec.hiddenSize));
  SLIM_RETURN_IF_ERROR(positive("spec.heads", spec.heads));
  SLIM_RETURN_IF_ERROR(positive("spec.kvHeads", spec.kvHeads));
  SLIM_RETURN_IF_ERROR(positive("spec.headDim", spec.headDim));
  if (spec.heads % spec.kvHeads != 0)
    return Status::invalidArgument("spec.kvHeads",
                                   "a divisor of the " + std::to_string(spec.heads) + " heads",
                                   std::to_string(spec.kvHeads));
  if (spec.qkvLayout == QkvLayout::PerHead && spec.heads != spec.kvHeads)
    return Status::invalidArgument("spec.kvHeads", std::to_string(spec.heads) + " (perHead layout)",
                                   std::to_string(spec.kvHeads));
  const RotarySpec& rotary = spec.rotary;
  if (rotary.dim % 2 != 0 || rotary.dim > spec.headDim)
    return Status::invalidArgument("spec.rotary.dim", "an even number up to " + std::to_string(spec.headDim),
                                   std::to_string(rotary.dim));
  if (rotary.inverseFrequencies.size() != rotary.dim / 2)
    return Status::invalidArgument("spec.rotary.inverseFrequencies",
                                   std::to_string(rotary.dim / 2) + " values",
                                   std::to_string(rotary.inverseFrequencies.size()));
  return Status::success();
}

struct LinearSlot {
  const char* role;
  Linear* linear;
  size_t rows, cols;
};

struct NormSlot {
  const char* role;
  Norm* norm;
  size_t size;
  bool required;
};

template <typename Slot, typename Weights>
Status rejectUnknown(const char* kind, const std::vector<Slot>& slots,
                     const std::map<std::string, Weights>& weights) {
  std::string roles;
  for (const Slot& slot : slots) roles += (roles.empty() ? "" : ", ") + std::string(slot.role);
  for (const auto& [role, unused] : weights)
    if (std::none_of(slots.begin(), slots.end(), [&](const Slot& slot) { return role == slot.role; }))
      return Status::invalidArgument(kind, "the roles " + roles + " (by spec)", role);
  return Status::success();
}

Status fill(const LinearSlot& slot, const BlockWeights& weights) {
  const std::string role = std::string("linears.") + slot.role;
  const auto found = weights.linears.find(slot.role);
  if (found == weights.linears.end()) return Weight{}.check(role + ".weight", slot.rows, slot.cols);
  SLIM_RETURN_IF_ERROR(found->second.weight.check(role + ".weight", slot.rows, slot.cols));
  slot.linear->weight = found->second.weight;
  return found->second.bias ? readVector(found->second.bias, role + ".bias", slot.rows, slot.linear->bias)
                            : Status::success();
}

Status fill(const NormSlot& slot, const NormSpec& spec, const BlockWeights& weights) {
  const std::string role = std::string("norms.") + slot.role;
  const auto found = weights.norms.find(slot.role);
  if (found == weights.norms.end())
    return slot.required ? Status::invalidArgument(role, "a norm", "nothing") : Status::success();
  std::vector<float> weight, bias;
  SLIM_RETURN_IF_ERROR(readVector(found->second.weight, role + ".weight", slot.size, weight));
  if (found->second.bias)
    SLIM_RETURN_IF_ERROR(readVector(found->second.bias, role + ".bias", slot.size, bias));
  *slot.norm = Norm(spec, std::move(weight), std::move(bias));
  return Status::success();
}

}  // namespace

void tap(const BlockTaps* taps, std::shared_ptr<Hessian> BlockTaps::*name, const float* x, size_t tokens,
         size_t stride, size_t sequences, ThreadPool& pool) {
  if (taps && taps->*name) (taps->*name)->add(x, tokens, stride, sequences, pool);
}

Status DecoderBlock::make(BlockSpec spec, const BlockWeights& weights, std::shared_ptr<DecoderBlock>& out) {
  SLIM_RETURN_IF_ERROR(checkSpec(spec));
  auto block = std::make_shared<DecoderBlock>();
  DecoderBlock& b = *block;
  // The intermediate size is down's: its other matrices are checked against it.
  const auto down = weights.linears.find("down");
  const size_t hidden = spec.hiddenSize, inner = down == weights.linears.end() ? 0 : down->second.weight.cols;
  std::vector<LinearSlot> linears;
  if (spec.qkvLayout == QkvLayout::Separate)
    linears = {{"q", &b.q_, spec.queryWidth(), hidden},
               {"k", &b.k_, spec.keyWidth(), hidden},
               {"v", &b.v_, spec.keyWidth(), hidden}};
  else
    linears = {{"qkv", &b.qkv_, spec.qkvWidth(), hidden}};
  linears.push_back({"o", &b.o_, hidden, spec.queryWidth()});
  if (spec.mlp == Mlp::GatedStacked) linears.push_back({"gateUp", &b.gateUp_, 2 * inner, hidden});
  if (spec.mlp == Mlp::Gated) linears.push_back({"gate", &b.gate_, inner, hidden});
  if (spec.mlp != Mlp::GatedStacked) linears.push_back({"up", &b.up_, inner, hidden});
  linears.push_back({"down", &b.down_, hidden, inner});
  const std::vector<NormSlot> norms = {
      {"input", &b.inputNorm_, hidden, true},    {"postAttention", &b.postAttentionNorm_, hidden, false},
      {"preMlp", &b.preMlpNorm_, hidden, true},  {"postMlp", &b.postMlpNorm_, hidden, false},
      {"q", &b.queryNorm_, spec.headDim, false}, {"k", &b.keyNorm_, spec.headDim, false},
  };
  SLIM_RETURN_IF_ERROR(rejectUnknown("linears", linears, weights.linears));
  SLIM_RETURN_IF_ERROR(rejectUnknown("norms", norms, weights.norms));
  for (const LinearSlot& slot : linears) SLIM_RETURN_IF_ERROR(fill(slot, weights));
  for (const NormSlot& slot : norms) SLIM_RETURN_IF_ERROR(fill(slot, spec.norm, weights));
  b.intermediate_ = inner;
  b.spec_ = std::move(spec);
  out = std::move(block);
  return Status::success();
}

size_t DecoderBlock::tileTokens() const {
  const size_t width = 4 * spec_.hiddenSize + 2 * spec_.qkvWidth() + spec_.queryWidth() + gateUpWidth();
  return std::clamp(kScratchBytes / (width * sizeof(float)), kLeastTokens, kMostTokens);
}

Status DecoderBlock::forEachTile(size_t tokens, size_t sequenceLength,
                                 std::initializer_list<BlockScratch*> scratches, const CancelFlag& cancelled,
                                 const TileVisit& visit) const {
  if (sequenceLength == 0 || tokens % sequenceLength != 0)
    return Status::invalidArgument("sequenceLength", "a divisor of the " + std::to_string(tokens) + " tokens",
                                   std::to_string(sequenceLength));
  const size_t sequences = tokens / sequenceLength, most = tileTokens();
  // Whole sequences, several at a time; of longer sequences one chunk after the other, appended to its keys
  // and values.
  const size_t together = std::clamp<size_t>(most / sequenceLength, 1, std::max<size_t>(sequences, 1));
  for (BlockScratch* scratch : scratches) {
    scratch->keyValues.resize(together);
    for (KeyValues& kv : scratch->keyValues) SLIM_RETURN_IF_ERROR(kv.allocate(spec_, sequenceLength));
  }
  for (size_t first = 0; first < sequences; first += together) {
    TokenTile tile;
    tile.sequences = std::min(together, sequences - first);
    for (tile.start = 0; tile.start < sequenceLength; tile.start += tile.length) {
      if (cancelled.load()) return Status::aborted();
      tile.length = std::min(most, sequenceLength - tile.start);
      const bool ends = tile.start + tile.length == sequenceLength;
      visit(tile, first * sequenceLength + tile.start, ends ? tile.sequences : 0);
    }
  }
  return Status::success();
}

Status DecoderBlock::forward(float* states, size_t tokens, size_t sequenceLength, const BlockTaps* taps,
                             BlockScratch& scratch, ThreadPool& pool, const CancelFlag& cancelled) const {
  return forEachTile(tokens, sequenceLength, {&scratch}, cancelled,
                     [&](const TokenTile& tile, size_t firstToken, size_t endingSequences) {
                       const Attend attend = attendTile(tile, scratch.keyValues.data(), scratch, pool);
                       runRows(states + firstToken * spec_.hiddenSize, tile.tokens(), attend, taps,
                               endingSequences, scratch, pool);
                     });
}

DecoderBlock::Attend DecoderBlock::attendTile(const TokenTile& tile, KeyValues* keyValues,
                                              BlockScratch& scratch, ThreadPool& pool) const {
  return [=, this, &scratch, &pool](float* qkv, float* attended) {
    scratch.rotary.fill(spec_.rotary, tile.start, tile.length, pool);
    prepareHeads(pool, spec_, queryNorm_, keyNorm_, scratch.rotary, tile, qkv, keyValues);
    attention(pool, spec_, tile, qkv, keyValues, attended, scratch.attention);
  };
}

void DecoderBlock::step(float* states, size_t rows, const std::vector<SequenceChunk>& chunks, size_t index,
                        const RotaryTable& rotary, StepScratch& scratch, ThreadPool& pool) const {
  const Attend attend = [&](float* qkv, float* attended) {
    prepareCachedHeads(pool, spec_, queryNorm_, keyNorm_, rotary, index, chunks, qkv);
    cachedAttention(pool, spec_, index, chunks, qkv, attended, scratch.attention);
  };
  runRows(states, rows, attend, nullptr, 0, scratch.block, pool);
}

// x ← x + attention(norm x), then x ← x + mlp(norm' x); in parallel: x ← x + attention(norm x) + mlp(norm'
// x).
void DecoderBlock::runRows(float* states, size_t tokens, const Attend& attend, const BlockTaps* taps,
                           size_t endingSequences, BlockScratch& scratch, ThreadPool& pool) const {
  const size_t hidden = spec_.hiddenSize;
  float* x = states;
  if (taps) {
    x = scratch.states.reserve(tokens * hidden);
    std::copy_n(states, tokens * hidden, x);
  }
  float* mlpInput = scratch.mlpNormed.reserve(tokens * hidden);
  const auto normForMlp = [&] { preMlpNorm_.apply(pool, tokens, x, hidden, mlpInput, hidden); };
  if (spec_.residual == Residual::Parallel) normForMlp();
  runAttention(x, tokens, attend, taps, endingSequences, scratch, pool);
  if (spec_.residual == Residual::Sequential) normForMlp();
  runMlp(x, mlpInput, tokens, taps, endingSequences, scratch, pool);
}

void DecoderBlock::runAttention(float* states, size_t tokens, const Attend& attend, const BlockTaps* taps,
                                size_t endingSequences, BlockScratch& scratch, ThreadPool& pool) const {
  const size_t hidden = spec_.hiddenSize;
  float* normed = scratch.normed.reserve(tokens * hidden);
  inputNorm_.apply(pool, tokens, states, hidden, normed, hidden);
  tap(taps, &BlockTaps::qkv, normed, tokens, hidden, endingSequences, pool);

  float* qkv = scratch.qkv.reserve(tokens * spec_.qkvWidth());
  projectQkv(pool, tokens, normed, qkv, scratch.int8 ? &scratch.activations : nullptr);
  float* attended = scratch.attended.reserve(tokens * spec_.queryWidth());
  attend(qkv, attended);
  tap(taps, &BlockTaps::o, attended, tokens, spec_.queryWidth(), endingSequences, pool);
  addOutput(o_, postAttentionNorm_, tokens, attended, spec_.queryWidth(), states, scratch, pool);
}

void DecoderBlock::runMlp(float* states, const float* input, size_t tokens, const BlockTaps* taps,
                          size_t endingSequences, BlockScratch& scratch, ThreadPool& pool) const {
  const size_t hidden = spec_.hiddenSize;
  tap(taps, &BlockTaps::gateUp, input, tokens, hidden, endingSequences, pool);
  const bool gated = spec_.mlp != Mlp::Plain;
  const size_t width = gateUpWidth();
  float* inner = scratch.mlp.reserve(tokens * width);
  projectGateUp(pool, tokens, input, inner, scratch.int8 ? &scratch.activations : nullptr);
  activateRows(pool, spec_.activation, tokens, intermediate_, inner, gated ? inner + intermediate_ : nullptr,
               width);
  tap(taps, &BlockTaps::down, inner, tokens, width, endingSequences, pool);
  if (!taps) addOutput(down_, postMlpNorm_, tokens, inner, width, states, scratch, pool);
}

Status DecoderBlock::interleave(ThreadPool& pool, const CancelFlag& cancelled) {
  std::lock_guard lock(interleaving_);
  for (Linear* linear : {&q_, &k_, &v_, &qkv_, &o_, &gate_, &up_, &gateUp_, &down_})
    SLIM_RETURN_IF_ERROR(linear->interleave(pool, cancelled));
  return Status::success();
}

std::vector<std::vector<const Linear*>> DecoderBlock::calls() const {
  using Layers = std::vector<const Linear*>;
  return {qkv_ ? Layers{&qkv_} : Layers{&q_, &k_, &v_},
          {&o_},
          gateUp_ ? Layers{&gateUp_}
          : gate_ ? Layers{&gate_, &up_}
                  : Layers{&up_},
          {&down_}};
}

// qkv [tokens][qkvWidth] of the normed states
void DecoderBlock::projectQkv(ThreadPool& pool, size_t tokens, const float* normed, float* qkv,
                              IntegerInput* int8) const {
  const size_t width = spec_.qkvWidth();
  const LinearOutput stacked[] = {{&qkv_, qkv, width}},
                     separate[] = {{&q_, qkv, width},
                                   {&k_, qkv + spec_.queryWidth(), width},
                                   {&v_, qkv + spec_.queryWidth() + spec_.keyWidth(), width}};
  const std::span<const LinearOutput> outputs =
      qkv_ ? std::span<const LinearOutput>(stacked) : std::span<const LinearOutput>(separate);
  applyLinears(pool, tokens, normed, spec_.hiddenSize, outputs, int8, true);
}

// inner [tokens][gateUpWidth]: gate and up side by side, or up alone
void DecoderBlock::projectGateUp(ThreadPool& pool, size_t tokens, const float* input, float* inner,
                                 IntegerInput* int8) const {
  const size_t width = gateUpWidth();
  const LinearOutput gate{&gate_, inner, width}, up{&up_, inner + width - intermediate_, width},
      stacked{&gateUp_, inner, width};
  std::vector<LinearOutput> outputs;
  if (gateUp_)
    outputs = {stacked};
  else if (gate_)
    outputs = {gate, up};
  else
    outputs = {up};
  applyLinears(pool, tokens, input, spec_.hiddenSize, outputs, int8);
}

// states += norm(linear x); without a norm the product is accumulated onto the states.
void DecoderBlock::addOutput(const Linear& linear, const Norm& norm, size_t tokens, const float* x,
                             size_t xStride, float* states, BlockScratch& scratch, ThreadPool& pool) const {
  const size_t hidden = spec_.hiddenSize;
  IntegerInput* int8 = scratch.int8 ? &scratch.activations : nullptr;
  float* output = norm ? scratch.output.reserve(tokens * hidden) : states;
  const LinearOutput product{&linear, output, hidden, !norm};
  applyLinears(pool, tokens, x, xStride, {&product, 1}, int8);
  if (!norm) return;
  constexpr size_t kRows = 16;
  pool.parallelFor((tokens + kRows - 1) / kRows, [&](size_t tile, int) {
    for (size_t t = tile * kRows; t < std::min(tokens, (tile + 1) * kRows); ++t) {
      float* row = output + t * hidden;
      norm.apply(row, row);
      for (size_t i = 0; i < hidden; ++i) states[t * hidden + i] += row[i];
    }
  });
}

}  // namespace slim
