#include "cuda/device_block.h"

#include <algorithm>

namespace slim::cuda {
namespace {

size_t divideUp(size_t a, size_t b) { return (a + b - 1) / b; }

}  // namespace

Status DeviceBlock::make(const std::shared_ptr<Device>& device, const DecoderBlock& source, size_t index,
                         ThreadPool& pool, const CancelFlag& cancelled, DeviceBlock& out) {
  const std::string name = "blocks[" + std::to_string(index) + "]";
  if (source.spec().headDim > kMostHeadDim)
    return Status::invalidArgument(name + ".spec.headDim",
                                   "at most " + std::to_string(kMostHeadDim) + " on device 'cuda'",
                                   std::to_string(source.spec().headDim), "Choose device 'cpu'");
  DeviceBlock block;
  block.spec_ = source.spec();
  block.intermediate_ = source.intermediateSize();
  const BlockLayers layers = source.layers();
  const std::tuple<const char*, const Linear*, DeviceLinear*> linears[] = {
      {"q", &layers.q, &block.q_},          {"k", &layers.k, &block.k_},
      {"v", &layers.v, &block.v_},          {"qkv", &layers.qkv, &block.qkv_},
      {"o", &layers.o, &block.o_},          {"gate", &layers.gate, &block.gate_},
      {"up", &layers.up, &block.up_},       {"gateUp", &layers.gateUp, &block.gateUp_},
      {"down", &layers.down, &block.down_},
  };
  for (const auto& [role, from, to] : linears)
    if (*from)
      SLIM_RETURN_IF_ERROR(DeviceLinear::make(device, *from, name + "." + role, pool, cancelled, *to));
  const std::tuple<const char*, const Norm*, DeviceNorm*> norms[] = {
      {"input", &layers.input, &block.input_},
      {"postAttention", &layers.postAttention, &block.postAttention_},
      {"preMlp", &layers.preMlp, &block.preMlp_},
      {"postMlp", &layers.postMlp, &block.postMlp_},
      {"q norm", &layers.query, &block.query_},
      {"k norm", &layers.key, &block.key_},
  };
  const auto lock = device->use();
  for (const auto& [role, from, to] : norms)
    SLIM_RETURN_IF_ERROR(DeviceNorm::make(*device, *from, name + "." + role, *to));
  out = std::move(block);
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
Status DeviceBlock::run(Device& device, DevicePass& pass, DeviceAddress rotary, size_t blockOffset) const {
  const auto normForMlp = [&] {
    return preMlp_.apply(
        device, {pass.states.address(), pass.mlpNormed.address(), pass.shape.rows, spec_.hiddenSize});
  };
  if (spec_.residual == Residual::Parallel) SLIM_RETURN_IF_ERROR(normForMlp());
  SLIM_RETURN_IF_ERROR(runAttention(device, pass, rotary, blockOffset));
  if (spec_.residual == Residual::Sequential) SLIM_RETURN_IF_ERROR(normForMlp());
  return runMlp(device, pass, pass.mlpNormed.address());
}

Status DeviceBlock::runAttention(Device& device, DevicePass& pass, DeviceAddress rotary,
                                 size_t blockOffset) const {
  const size_t hidden = spec_.hiddenSize, rows = pass.shape.rows, width = spec_.qkvWidth();
  SLIM_RETURN_IF_ERROR(input_.apply(device, {pass.states.address(), pass.normed.address(), rows, hidden}));
  const DeviceActivations x{pass.normed.address(), ActivationType::F32, rows, hidden};
  const DeviceAddress qkv = pass.qkv.address(), k = qkv + 4 * spec_.queryWidth(),
                      v = k + 4 * spec_.keyWidth();
  const DeviceLinear::Product stacked[] = {{&qkv_, qkv, width}},
                              separate[] = {{&q_, qkv, width}, {&k_, k, width}, {&v_, v, width}};
  const auto products = qkv_ ? std::span<const DeviceLinear::Product>(stacked)
                             : std::span<const DeviceLinear::Product>(separate);
  SLIM_RETURN_IF_ERROR(DeviceLinear::multiply(device, x, products, pass.products));
  SLIM_RETURN_IF_ERROR(prepareHeads(device, pass, rotary, blockOffset));
  SLIM_RETURN_IF_ERROR(attend(device, pass, blockOffset));
  return addOutput(device, pass, o_, postAttention_,
                   {pass.attended.address(), ActivationType::F32, rows, spec_.queryWidth()});
}

Status DeviceBlock::prepareHeads(Device& device, DevicePass& pass, DeviceAddress rotary,
                                 size_t blockOffset) const {
  constexpr size_t kWarps = 4;  // kPrepareWarps of heads.cuh
  PrepareHeadsArguments a{};
  a.qkv = addressOf<float>(pass.qkv.address());
  a.queryWeight = addressOf<const float>(query_.weight.address());
  a.queryBias = addressOf<const float>(query_.bias.address());
  a.keyWeight = addressOf<const float>(key_.weight.address());
  a.keyBias = addressOf<const float>(key_.bias.address());
  a.rotary = addressOf<const float>(rotary);
  a.positions = addressOf<const int32_t>(pass.positions);
  a.sequences = addressOf<const int32_t>(pass.sequences);
  a.pages = addressOf<const uint64_t>(pass.pages);
  a.qkvStride = spec_.qkvWidth();
  a.blockOffset = blockOffset;
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
  return device.launch("prepareHeads",
                       {.gridX = unsigned(pass.shape.rows),
                        .gridY = unsigned(divideUp(spec_.heads + spec_.kvHeads, kWarps)),
                        .threads = 32 * kWarps},
                       a, std::to_string(pass.shape.rows) + " tokens");
}

Status DeviceBlock::attend(Device& device, DevicePass& pass, size_t blockOffset) const {
  const PassShape& shape = pass.shape;
  AttentionArguments a{};
  a.qkv = addressOf<const float>(pass.qkv.address());
  a.out = addressOf<float>(pass.attended.address());
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
  const Launch launch{
      .gridX = unsigned(shape.tiles), .gridY = headBlocks, .gridZ = unsigned(shape.slices), .threads = 128};
  SLIM_RETURN_IF_ERROR(device.launch("attend", launch, a, about));
  if (shape.slices == 1) return Status::success();
  return device.launch("mergeSlices", {.gridX = unsigned(shape.tiles), .gridY = headBlocks, .threads = 128},
                       a, about);
}

Status DeviceBlock::runMlp(Device& device, DevicePass& pass, DeviceAddress input) const {
  const size_t rows = pass.shape.rows, width = gateUpWidth();
  const DeviceActivations x{input, ActivationType::F32, rows, spec_.hiddenSize};
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
  a.x = addressOf<float>(inner);
  a.up = addressOf<const float>(spec_.mlp == Mlp::Plain ? 0 : up);
  a.stride = width;
  a.width = uint32_t(intermediate_);
  a.activation = uint32_t(spec_.activation);
  SLIM_RETURN_IF_ERROR(device.launch(
      "activateRows",
      {.gridX = unsigned(rows), .gridY = unsigned(divideUp(intermediate_, 256)), .threads = 256}, a,
      std::to_string(rows) + " tokens × " + std::to_string(intermediate_)));
  return addOutput(device, pass, down_, postMlp_, {inner, ActivationType::F32, rows, width});
}

Status DeviceBlock::addOutput(Device& device, DevicePass& pass, const DeviceLinear& linear,
                              const DeviceNorm& norm, const DeviceActivations& x) const {
  const size_t hidden = spec_.hiddenSize;
  const DeviceAddress to = norm ? pass.output.address() : pass.states.address();
  const DeviceLinear::Product product{&linear, to, hidden, !norm};
  SLIM_RETURN_IF_ERROR(DeviceLinear::multiply(device, x, {&product, 1}, pass.products));
  if (!norm) return Status::success();
  return norm.apply(
      device, {.x = to, .out = pass.states.address(), .rows = x.tokens, .width = hidden, .accumulate = true});
}

}  // namespace slim::cuda
