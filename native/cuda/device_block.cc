#include "cuda/device_block.h"

#include <algorithm>

namespace slim::cuda {
Status DeviceBlock::make(const std::shared_ptr<Device>& device, const DecoderBlock& source, size_t index,
                         ThreadPool& pool, const CancelFlag& cancelled, DeviceBlock& out) {
  DeviceBlock block;
  SLIM_RETURN_IF_ERROR(
      begin(*device, source, "blocks[" + std::to_string(index) + "]", Precision::Tf32, block));
  for (const BlockPart part : kBlockParts)
    SLIM_RETURN_IF_ERROR(block.load(device, source, part, pool, cancelled));
  out = std::move(block);
  return Status::success();
}

Status DeviceBlock::begin(Device& device, const DecoderBlock& source, std::string name, Precision precision,
                          DeviceBlock& out) {
  if (source.spec().headDim > kMostHeadDim)
    return Status::invalidArgument(name + ".spec.headDim",
                                   "at most " + std::to_string(kMostHeadDim) + " on device 'cuda'",
                                   std::to_string(source.spec().headDim), "Choose device 'cpu'");
  DeviceBlock block;
  block.spec_ = source.spec();
  block.name_ = std::move(name);
  block.precision_ = precision;
  block.intermediate_ = source.intermediateSize();
  const BlockLayers layers = source.layers();
  const std::tuple<const char*, const Norm*, DeviceNorm*> norms[] = {
      {"input", &layers.input, &block.input_},
      {"postAttention", &layers.postAttention, &block.postAttention_},
      {"preMlp", &layers.preMlp, &block.preMlp_},
      {"postMlp", &layers.postMlp, &block.postMlp_},
      {"q norm", &layers.query, &block.query_},
      {"k norm", &layers.key, &block.key_},
  };
  const auto lock = device.use();
  for (const auto& [role, from, to] : norms)
    SLIM_RETURN_IF_ERROR(DeviceNorm::make(device, *from, block.name_ + "." + role, *to));
  out = std::move(block);
  return Status::success();
}

Status DeviceBlock::load(const std::shared_ptr<Device>& device, const DecoderBlock& source, BlockPart part,
                         ThreadPool& pool, const CancelFlag& cancelled) {
  const BlockLayers layers = source.layers();
  const std::tuple<BlockPart, const char*, const Linear*, DeviceLinear*> linears[] = {
      {BlockPart::Qkv, "q", &layers.q, &q_},
      {BlockPart::Qkv, "k", &layers.k, &k_},
      {BlockPart::Qkv, "v", &layers.v, &v_},
      {BlockPart::Qkv, "qkv", &layers.qkv, &qkv_},
      {BlockPart::O, "o", &layers.o, &o_},
      {BlockPart::GateUp, "gate", &layers.gate, &gate_},
      {BlockPart::GateUp, "up", &layers.up, &up_},
      {BlockPart::GateUp, "gateUp", &layers.gateUp, &gateUp_},
      {BlockPart::Down, "down", &layers.down, &down_}};
  for (const auto& [of, role, from, to] : linears)
    if (of == part && *from)
      SLIM_RETURN_IF_ERROR(DeviceLinear::make(device, *from, name_ + "." + role, pool, cancelled, *to,
                                              {.precision = precision_}));
  return Status::success();
}

size_t DeviceBlock::headsOfTile() const { return std::min<size_t>(spec_.heads / spec_.kvHeads, kQueryRows); }

void DeviceBlock::widen(PassWidths& widths) const {
  widths.qkv = std::max(widths.qkv, spec_.qkvWidth());
  widths.query = std::max(widths.query, spec_.queryWidth());
  widths.inner = std::max(widths.inner, gateUpWidth());
  const size_t headBlocks = spec_.kvHeads * divideUp(spec_.heads / spec_.kvHeads, headsOfTile());
  widths.attentionSums = std::max(widths.attentionSums, headBlocks * kQueryRows * spec_.headDim);
  widths.attentionMoments = std::max(widths.attentionMoments, headBlocks * kQueryRows * 2);
}

// x ← x + attention(norm x), then x ← x + mlp(norm' x); in parallel: x ← x + attention(norm x) + mlp(norm'
// x).
Status DeviceBlock::run(Device& device, DevicePass& pass, DeviceAddress states, const Position& position,
                        const InputVisit& visit) const {
  const auto see = [&](BlockPart part, const DeviceBuffer<float>& x, size_t stride) {
    return visit ? visit(part, x.address(), stride) : Status::success();
  };
  if (spec_.residual == Residual::Parallel) SLIM_RETURN_IF_ERROR(normForMlp(device, pass, states));
  SLIM_RETURN_IF_ERROR(normInput(device, pass, states));
  SLIM_RETURN_IF_ERROR(see(BlockPart::Qkv, pass.normed, spec_.hiddenSize));
  SLIM_RETURN_IF_ERROR(attend(device, pass, position, pass.attended.address()));
  SLIM_RETURN_IF_ERROR(see(BlockPart::O, pass.attended, spec_.queryWidth()));
  SLIM_RETURN_IF_ERROR(addAttention(device, pass, pass.attended.address(), states));
  if (spec_.residual == Residual::Sequential) SLIM_RETURN_IF_ERROR(normForMlp(device, pass, states));
  SLIM_RETURN_IF_ERROR(see(BlockPart::GateUp, pass.mlpNormed, spec_.hiddenSize));
  SLIM_RETURN_IF_ERROR(activate(device, pass, pass.inner.address(), gateUpWidth()));
  SLIM_RETURN_IF_ERROR(see(BlockPart::Down, pass.inner, gateUpWidth()));
  if (visit) return Status::success();
  return addMlp(device, pass, pass.inner.address(), gateUpWidth(), states);
}

Status DeviceBlock::normInput(Device& device, DevicePass& pass, DeviceAddress states) const {
  return input_.apply(device, {states, pass.normed.address(), pass.shape.rows, spec_.hiddenSize});
}

Status DeviceBlock::normForMlp(Device& device, DevicePass& pass, DeviceAddress states) const {
  return preMlp_.apply(device, {states, pass.mlpNormed.address(), pass.shape.rows, spec_.hiddenSize});
}

Status DeviceBlock::attend(Device& device, DevicePass& pass, const Position& position,
                           DeviceAddress attended) const {
  SLIM_RETURN_IF_ERROR(projectQkv(device, pass));
  SLIM_RETURN_IF_ERROR(prepareHeads(device, pass, position));
  return attendHeads(device, pass, position.blockOffset, attended);
}

Status DeviceBlock::projectQkv(Device& device, DevicePass& pass) const {
  const size_t width = spec_.qkvWidth();
  const DeviceActivations x{pass.normed.address(), ActivationType::F32, pass.shape.rows, spec_.hiddenSize};
  const DeviceAddress qkv = pass.qkv.address(), k = qkv + 4 * spec_.queryWidth(),
                      v = k + 4 * spec_.keyWidth();
  const DeviceLinear::Product stacked[] = {{&qkv_, qkv, width}},
                              separate[] = {{&q_, qkv, width}, {&k_, k, width}, {&v_, v, width}};
  const auto products = qkv_ ? std::span<const DeviceLinear::Product>(stacked)
                             : std::span<const DeviceLinear::Product>(separate);
  return DeviceLinear::multiply(device, x, products, pass.products);
}

PrepareHeadsArguments DeviceBlock::prepareArguments(const DevicePass& pass, const Position& position) const {
  PrepareHeadsArguments a{};
  a.qkv = addressOf<float>(pass.qkv.address());
  a.queryWeight = addressOf<const float>(query_.weight.address());
  a.queryBias = addressOf<const float>(query_.bias.address());
  a.keyWeight = addressOf<const float>(key_.weight.address());
  a.keyBias = addressOf<const float>(key_.bias.address());
  a.rotary = addressOf<const float>(position.rotary);
  a.positions = addressOf<const int32_t>(pass.positions);
  a.sequences = addressOf<const int32_t>(pass.sequences);
  a.pages = addressOf<const uint64_t>(pass.pages);
  a.qkvStride = spec_.qkvWidth();
  a.blockOffset = position.blockOffset;
  a.rows = uint32_t(pass.shape.rows);
  a.heads = uint32_t(spec_.heads);
  a.kvHeads = uint32_t(spec_.kvHeads);
  a.headDim = uint32_t(spec_.headDim);
  a.rotaryDim = uint32_t(spec_.rotary.dim);
  a.perHead = spec_.qkvLayout == QkvLayout::PerHead;
  a.normType = uint32_t(query_ ? query_.type : key_.type);
  a.pagesOfSequence = uint32_t(pass.shape.pagesOfSequence);
  a.eps = query_ ? query_.eps : key_.eps;
  a.scale = spec_.attention.scale;
  return a;
}

Status DeviceBlock::prepareHeads(Device& device, DevicePass& pass, const Position& position) const {
  return device.launch(precision_ == Precision::Float32 ? "prepareHeadsF32" : "prepareHeads",
                       {.gridX = unsigned(pass.shape.rows),
                        .gridY = unsigned(divideUp(spec_.heads + spec_.kvHeads, kPrepareWarps)),
                        .threads = 32 * kPrepareWarps},
                       prepareArguments(pass, position), std::to_string(pass.shape.rows) + " tokens");
}

Status DeviceBlock::attendHeads(Device& device, DevicePass& pass, size_t blockOffset,
                                DeviceAddress out) const {
  const PassShape& shape = pass.shape;
  AttentionArguments a{};
  a.qkv = addressOf<const float>(pass.qkv.address());
  a.out = addressOf<float>(out);
  a.tiles = addressOf<const AttentionTile>(pass.tiles);
  a.pages = addressOf<const uint64_t>(pass.pages);
  a.sums = addressOf<float>(pass.sums.address());
  a.moments = addressOf<float>(pass.moments.address());
  a.qkvStride = spec_.qkvWidth();
  a.outStride = spec_.queryWidth();
  a.blockOffset = blockOffset;
  a.heads = uint32_t(spec_.heads);
  a.kvHeads = uint32_t(spec_.kvHeads);
  a.headDim = uint32_t(spec_.headDim);
  a.perHead = spec_.qkvLayout == QkvLayout::PerHead;
  a.pagesOfSequence = uint32_t(shape.pagesOfSequence);
  a.headsOfTile = uint32_t(headsOfTile());
  a.window = uint32_t(spec_.attention.window);
  a.slices = uint32_t(shape.slices);
  a.slicePages = uint32_t(divideUp(shape.pagesOfSequence, shape.slices));
  a.softcap = spec_.attention.softcap;
  const auto headBlocks = unsigned(spec_.kvHeads * divideUp(spec_.heads / spec_.kvHeads, headsOfTile()));
  const std::string about = std::to_string(shape.rows) + " tokens of " + std::to_string(shape.sequences) +
                            " sequences, " + std::to_string(shape.pagesOfSequence) + " pages";
  if (shape.tileRows == kPromptRows) {
    const auto headDim = uint32_t(spec_.headDim);
    const std::string size = headDim <= 64 ? "64" : headDim <= 128 ? "128" : "256";
    return device.launch(("attendPrompt" + size).c_str(),
                         {.gridX = unsigned(shape.tiles),
                          .gridY = headBlocks,
                          .threads = 128,
                          .sharedBytes = promptSharedBytes(headDim)},
                         a, about);
  }
  const bool float32 = precision_ == Precision::Float32;
  const Launch launch{.gridX = unsigned(shape.tiles),
                      .gridY = headBlocks,
                      .gridZ = unsigned(shape.slices),
                      .threads = 128,
                      .sharedBytes = float32 ? attendF32SharedBytes(uint32_t(spec_.headDim)) : 0};
  SLIM_RETURN_IF_ERROR(device.launch(float32 ? "attendF32" : "attend", launch, a, about));
  if (shape.slices == 1) return Status::success();
  return device.launch("mergeSlices", {.gridX = unsigned(shape.tiles), .gridY = headBlocks, .threads = 128},
                       a, about);
}

Status DeviceBlock::activate(Device& device, DevicePass& pass, DeviceAddress out, size_t outStride) const {
  const size_t rows = pass.shape.rows, width = gateUpWidth();
  const DeviceActivations x{pass.mlpNormed.address(), ActivationType::F32, rows, spec_.hiddenSize};
  const DeviceAddress inner = pass.inner.address(), up = inner + 4 * (width - intermediate_);
  std::vector<DeviceLinear::Product> products;
  if (gateUp_)
    products = {{&gateUp_, inner, width}};
  else if (gate_)
    products = {{&gate_, inner, width}, {&up_, up, width}};
  else
    products = {{&up_, inner, width}};
  SLIM_RETURN_IF_ERROR(DeviceLinear::multiply(device, x, products, pass.products));
  ActivateArguments a{};
  a.x = addressOf<const float>(inner);
  a.up = addressOf<const float>(spec_.mlp == Mlp::Plain ? 0 : up);
  a.out = addressOf<float>(out);
  a.stride = width;
  a.outStride = outStride;
  a.width = uint32_t(intermediate_);
  a.activation = uint32_t(spec_.activation);
  return device.launch(
      "activateRows",
      {.gridX = unsigned(rows), .gridY = unsigned(divideUp(intermediate_, 256)), .threads = 256}, a,
      std::to_string(rows) + " tokens × " + std::to_string(intermediate_));
}

Status DeviceBlock::addAttention(Device& device, DevicePass& pass, DeviceAddress attended,
                                 DeviceAddress states) const {
  const DeviceActivations x{attended, ActivationType::F32, pass.shape.rows, spec_.queryWidth()};
  return addOutput(device, pass, o_, postAttention_, x, states);
}

Status DeviceBlock::addMlp(Device& device, DevicePass& pass, DeviceAddress inner, size_t stride,
                           DeviceAddress states) const {
  const DeviceActivations x{inner, ActivationType::F32, pass.shape.rows, stride};
  return addOutput(device, pass, down_, postMlp_, x, states);
}

Status DeviceBlock::addOutput(Device& device, DevicePass& pass, const DeviceLinear& linear,
                              const DeviceNorm& norm, const DeviceActivations& x,
                              DeviceAddress states) const {
  const size_t hidden = spec_.hiddenSize;
  const DeviceAddress to = norm ? pass.output.address() : states;
  const DeviceLinear::Product product{&linear, to, hidden, !norm};
  SLIM_RETURN_IF_ERROR(DeviceLinear::multiply(device, x, {&product, 1}, pass.products));
  if (!norm) return Status::success();
  return norm.apply(device, {.x = to, .out = states, .rows = x.tokens, .width = hidden, .accumulate = true});
}

}  // namespace slim::cuda
