#include "cuda/device_model.h"

#include <algorithm>
#include <bit>

namespace slim::cuda {
namespace {

// Longer prompts take several passes.
constexpr size_t kPassTokens = 512;
// Rotary tables begin with so many positions, and double.
constexpr size_t kLeastPositions = 256;
// Shapes of decode steps that are kept: batches of up to this many sizes or lengths.
constexpr size_t kMostDecodes = 16;

DeviceCache& cacheOf(const StepSequence& sequence) { return *static_cast<DeviceCache*>(sequence.cache); }

}  // namespace

Status DeviceModelBuilder::addBlock(const DecoderBlock& block, ThreadPool& pool,
                                    const CancelFlag& cancelled) {
  DeviceModel& model = *model_;
  DeviceBlock made;
  SLIM_RETURN_IF_ERROR(DeviceBlock::make(model.device_, block, model.blocks_.size(), pool, cancelled, made));
  const BlockSpec& spec = made.spec();
  if (model.blocks_.empty()) norm_ = spec.norm;
  model.headsOfTile_ = std::max(model.headsOfTile_, made.headsOfTile());
  made.widen(model.widths_);
  const auto found =
      std::find_if(model.rotaries_.begin(), model.rotaries_.end(),
                   [&](const DeviceModel::Rotary& rotary) { return rotary.spec == spec.rotary; });
  model.rotaryOf_.push_back(size_t(found - model.rotaries_.begin()));
  if (found == model.rotaries_.end()) model.rotaries_.push_back({spec.rotary, {}, 0});
  model.blocks_.push_back(std::move(made));
  return Status::success();
}

Status DeviceModelBuilder::finish(const ModelParts& parts, ThreadPool& pool, const CancelFlag& cancelled,
                                  std::shared_ptr<LanguageModel>& out) {
  DeviceModel& model = *model_;
  if (model.blocks_.empty()) return Status::invalidArgument("blocks", "at least one block", "none");
  SLIM_RETURN_IF_ERROR(parts.embedding.check());
  const size_t vocab = parts.embedding.vocab(), hidden = parts.embedding.hidden();
  SLIM_RETURN_IF_ERROR(parts.head.check("head", vocab, hidden));
  auto layout = std::make_shared<CacheLayout>();
  for (const DeviceBlock& block : model.blocks_) {
    if (block.spec().hiddenSize != hidden)
      return Status::invalidArgument("embedding",
                                     "rows of " + std::to_string(block.spec().hiddenSize) + " elements",
                                     std::to_string(hidden));
    layout->add(block.spec());
  }
  model.layout_ = std::move(layout);
  model.widths_.hidden = hidden;
  model.widths_.vocab = vocab;
  model.positionLimit_ = parts.embedding.positionLimit();
  model.logitSoftcap_ = parts.logitSoftcap;
  SLIM_RETURN_IF_ERROR(DeviceEmbedding::make(model.device_, parts.embedding, model.embedding_));
  const bool tied = parts.head.dense && parts.head.dense == parts.embedding.table.dense;
  Linear head;
  head.weight = parts.head;
  SLIM_RETURN_IF_ERROR(DeviceLinear::make(model.device_, head, "head", pool, cancelled, model.head_,
                                          {.dense = tied ? model.embedding_.table() : nullptr}));
  if (parts.finalNormWeight) {
    std::vector<float> weight, bias;
    SLIM_RETURN_IF_ERROR(readVector(parts.finalNormWeight, "finalNorm.weight", hidden, weight));
    if (parts.finalNormBias)
      SLIM_RETURN_IF_ERROR(readVector(parts.finalNormBias, "finalNorm.bias", hidden, bias));
    const auto lock = model.device_->use();
    SLIM_RETURN_IF_ERROR(DeviceNorm::make(*model.device_, Norm(norm_, std::move(weight), std::move(bias)),
                                          "finalNorm", model.finalNorm_));
  }
  out = std::move(model_);
  return Status::success();
}

Status DeviceModel::makeCache(size_t capacity, CacheDType dtype, std::shared_ptr<SequenceCache>& out) const {
  if (capacity == 0) return Status::invalidArgument("capacity", "at least one token", "0");
  if (dtype != CacheDType::F16)
    return Status::invalidArgument("dtype", "F16, the type of caches on device 'cuda'", cacheDTypeName(dtype),
                                   "Leave kvCache out, or choose device 'cpu'");
  out = std::make_shared<DeviceCache>(device_, layout_, capacity);
  return Status::success();
}

// The tables are the CPU's: the same bits whatever the device's cosine does.
Status DeviceModel::growRotaries(size_t positions, ThreadPool& pool) const {
  for (Rotary& rotary : rotaries_) {
    if (rotary.spec.dim == 0 || rotary.positions >= positions) continue;
    const size_t count = std::bit_ceil(std::max(positions, kLeastPositions));
    RotaryTable table;
    table.fill(rotary.spec, 0, count, pool);
    decodes_.clear();  // they have recorded the address of the old one
    rotary.positions = 0;
    rotary.table = {};
    SLIM_RETURN_IF_ERROR(
        device_->upload(table.values().data(), table.values().size(), "rotary embeddings", rotary.table));
    rotary.positions = count;
  }
  return Status::success();
}

Status DeviceModel::queue(DevicePass& pass) const {
  SLIM_RETURN_IF_ERROR(embedding_.run(*device_, pass));
  for (size_t i = 0; i < blocks_.size(); ++i)
    SLIM_RETURN_IF_ERROR(blocks_[i].run(*device_, pass, pass.states.address(),
                                        {rotaries_[rotaryOf_[i]].table.address(), layout_->blockOffsets[i]}));
  if (pass.shape.logitRows == 0) return Status::success();
  SLIM_RETURN_IF_ERROR(project(pass, pass.states.address(), pass.logitRows, pass.shape.logitRows));
  return pass.sampling.sample(*device_, pass.logits.address(), widths_.vocab);
}

Status DeviceModel::project(DevicePass& pass, DeviceAddress states, DeviceAddress rowIndices,
                            size_t rows) const {
  SLIM_RETURN_IF_ERROR(
      finalNorm_.apply(*device_, {states, pass.last.address(), rows, widths_.hidden, rowIndices, false}));
  const DeviceLinear::Product product{&head_, pass.logits.address(), widths_.vocab};
  SLIM_RETURN_IF_ERROR(
      DeviceLinear::multiply(*device_, {pass.last.address(), ActivationType::F32, rows, widths_.hidden},
                             {&product, 1}, pass.products));
  if (logitSoftcap_ == 0) return Status::success();
  CapArguments a{};
  a.x = addressOf<float>(pass.logits.address());
  a.count = rows * widths_.vocab;
  a.cap = logitSoftcap_;
  return device_->launch("capLogits", {.gridX = unsigned((a.count + 255) / 256), .threads = 256}, a,
                         std::to_string(rows) + " tokens");
}

Status DeviceModel::runPrompt(const PassInput& input) const {
  SLIM_RETURN_IF_ERROR(prompt_.reserve(*device_, input.shape(), widths_));
  SLIM_RETURN_IF_ERROR(prompt_.upload(*device_, input));
  return queue(prompt_);
}

// The first step of a shape is queued kernel by kernel, which grows what products need; the second one is
// recorded.
Status DeviceModel::runDecode(const PassInput& input, DevicePass*& pass) const {
  const PassShape shape = input.shape();
  auto found = std::find_if(decodes_.begin(), decodes_.end(),
                            [&](const auto& decode) { return decode->pass.shape == shape; });
  if (found == decodes_.end()) {
    if (decodes_.size() == kMostDecodes)
      decodes_.erase(std::min_element(decodes_.begin(), decodes_.end(),
                                      [](const auto& a, const auto& b) { return a->lastUse < b->lastUse; }));
    auto made = std::make_unique<Decode>();
    SLIM_RETURN_IF_ERROR(made->pass.reserve(*device_, shape, widths_));
    found = decodes_.insert(decodes_.end(), std::move(made));
  }
  Decode& decode = **found;
  decode.lastUse = ++uses_;
  pass = &decode.pass;
  SLIM_RETURN_IF_ERROR(decode.pass.upload(*device_, input));
  if (!decode.warm) {
    SLIM_RETURN_IF_ERROR(queue(decode.pass));
    decode.warm = true;
    return Status::success();
  }
  if (!decode.graph) SLIM_RETURN_IF_ERROR(device_->capture([&] { return queue(decode.pass); }, decode.graph));
  return decode.graph->launch();
}

Status DeviceModel::step(const std::vector<StepSequence>& sequences,
                         std::vector<std::optional<SampledToken>>& out, ThreadPool& pool,
                         const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkStep(sequences));
  const auto lock = device_->use();
  size_t positions = 0;
  for (const StepSequence& sequence : sequences) {
    const size_t end = sequence.cache->length() + sequence.ids.size();
    SLIM_RETURN_IF_ERROR(cacheOf(sequence).reserve(end));
    positions = std::max(positions, end);
  }
  SLIM_RETURN_IF_ERROR(growRotaries(positions, pool));
  TokenDraw draw(sequences, out);
  std::vector<std::optional<SampledToken>> tokens;
  size_t drawn = 0;
  // A pass's logits stay within some MB.
  const size_t mostLogits = std::max<size_t>(1, kLogitBytes / (widths_.vocab * sizeof(float)));
  for (size_t s = 0, done = 0; s < sequences.size();) {
    if (cancelled.load()) return Status::aborted();
    PassInput input;
    input.headsOfTile = headsOfTile_;
    bool decodes = true;
    while (s < sequences.size() && input.ids.size() < kPassTokens && input.logitRows.size() < mostLogits) {
      const StepSequence& sequence = sequences[s];
      const size_t length = std::min(sequence.ids.size() - done, kPassTokens - input.ids.size());
      input.chunks.push_back({&cacheOf(sequence), length, sequence.cache->length() + done});
      input.ids.insert(input.ids.end(), sequence.ids.begin() + ptrdiff_t(done),
                       sequence.ids.begin() + ptrdiff_t(done + length));
      decodes = decodes && length == 1;
      done += length;
      if (done < sequence.ids.size()) continue;
      if (sequence.sampler) {
        input.sampling.add(draw.sampler(drawn + input.logitRows.size()), widths_.vocab);
        input.logitRows.push_back(int32_t(input.ids.size() - 1));
      }
      done = 0;
      ++s;
    }
    DevicePass* pass = &prompt_;
    SLIM_RETURN_IF_ERROR(decodes ? runDecode(input, pass) : runPrompt(input));
    if (input.logitRows.empty()) continue;
    SLIM_RETURN_IF_ERROR(pass->sampling.read(*device_, input.sampling, tokens));
    SLIM_RETURN_IF_ERROR(draw.take(std::move(tokens), drawn));
    drawn += input.logitRows.size();
  }
  SLIM_RETURN_IF_ERROR(device_->synchronize());
  if (cancelled.load()) return Status::aborted();
  draw.commit();
  for (const StepSequence& sequence : sequences) sequence.cache->advance(sequence.ids.size());
  return Status::success();
}

/// States [ids, hidden] after the last block.
class DeviceModel::States final : public LogitsPass {
 public:
  explicit States(const DeviceModel& model) : model_(model), device_(model.device_) {}

  Status run(const std::vector<int32_t>& ids, ThreadPool& pool, const CancelFlag& cancelled) {
    const size_t rowBytes = model_.widths_.hidden * sizeof(float);
    DeviceCache cache(device_, model_.layout_, ids.size());
    const auto lock = device_->use();
    SLIM_RETURN_IF_ERROR(model_.growRotaries(ids.size(), pool));
    SLIM_RETURN_IF_ERROR(device_->allocate(ids.size() * model_.widths_.hidden, "states", states_));
    for (size_t start = 0; start < ids.size(); start += kPassTokens) {
      if (cancelled.load()) return Status::aborted();
      PassInput input;
      input.headsOfTile = model_.headsOfTile_;
      const size_t length = std::min(kPassTokens, ids.size() - start);
      input.ids.assign(ids.begin() + ptrdiff_t(start), ids.begin() + ptrdiff_t(start + length));
      SLIM_RETURN_IF_ERROR(cache.reserve(start + length));
      input.chunks.push_back({&cache, length, start});
      SLIM_RETURN_IF_ERROR(model_.runPrompt(input));
      SLIM_RETURN_IF_ERROR(device_->copyOnDevice(states_.address() + start * rowBytes,
                                                 model_.prompt_.states.address(), length * rowBytes));
      cache.advance(length);
    }
    return device_->synchronize();
  }

  Status read(size_t first, size_t count, float* out, ThreadPool&) override {
    const auto lock = device_->use();
    const PassWidths& widths = model_.widths_;
    SLIM_RETURN_IF_ERROR(reserve(*device_, count * widths.hidden, "states", pass_.last));
    SLIM_RETURN_IF_ERROR(reserve(*device_, count * widths.vocab, "logits", pass_.logits));
    SLIM_RETURN_IF_ERROR(
        model_.project(pass_, states_.address() + first * widths.hidden * sizeof(float), 0, count));
    return device_->copyToHost(out, pass_.logits.address(), count * widths.vocab * sizeof(float));
  }

 private:
  const DeviceModel& model_;
  std::shared_ptr<Device> device_;
  DeviceBuffer<float> states_;
  DevicePass pass_;
};

Status DeviceModel::beginPass(const std::vector<int32_t>& ids, std::unique_ptr<LogitsPass>& out,
                              ThreadPool& pool, const CancelFlag& cancelled) const {
  SLIM_RETURN_IF_ERROR(checkTokenIds(ids, vocab(), 1));
  if (ids.size() > positionLimit_)
    return Status::invalidArgument("ids",
                                   "at most the model's " + std::to_string(positionLimit_) + " positions",
                                   std::to_string(ids.size()), "Use shorter sequences");
  auto states = std::make_unique<States>(*this);
  SLIM_RETURN_IF_ERROR(states->run(ids, pool, cancelled));
  out = std::move(states);
  return Status::success();
}

}  // namespace slim::cuda
