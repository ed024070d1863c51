#include "cuda/device_pass.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "cuda/kernels/backward_arguments.h"

namespace slim::cuda {
namespace {

/// Of the attention over long caches by few tokens: positions that one CTA takes.
constexpr size_t kSlicePages = 4;
/// Of each sequence: more fill the tensor cores' tiles, and make CTAs enough without slices.
constexpr size_t kMostFewTokens = 4;

}  // namespace

PassShape PassInput::shape() const {
  PassShape shape;
  shape.sequences = chunks.size();
  shape.logitRows = logitRows.size();
  shape.sampling = SamplingBuffers::shapeOf(sampling);
  size_t pages = 1, longest = 0;
  for (const PassChunk& chunk : chunks) {
    pages = std::max(pages, divideUp(chunk.start + chunk.length, kCachePage));
    longest = std::max(longest, chunk.length);
    shape.rows += chunk.length;
  }
  const bool few = longest <= kMostFewTokens;
  shape.tileRows = few || precision == Precision::Float32 ? kQueryRows : kPromptRows;
  for (const PassChunk& chunk : chunks) shape.tiles += divideUp(chunk.length, shape.tileRows / headsOfTile);
  // Powers of two: a recorded pass serves a sequence until it is twice as long.
  shape.pagesOfSequence = std::bit_ceil(pages);
  if (few) shape.slices = divideUp(shape.pagesOfSequence, kSlicePages);
  return shape;
}

Status DevicePass::reserve(Device& device, const PassShape& wanted, const PassWidths& widths) {
  const std::string about = "the values of " + std::to_string(wanted.rows) + " tokens";
  const std::tuple<DeviceBuffer<float>*, size_t, size_t> buffers[] = {
      {&states, wanted.rows, widths.hidden},    {&normed, wanted.rows, widths.hidden},
      {&mlpNormed, wanted.rows, widths.hidden}, {&qkv, wanted.rows, widths.qkv},
      {&attended, wanted.rows, widths.query},   {&output, wanted.rows, widths.hidden},
      {&inner, wanted.rows, widths.inner},      {&last, wanted.logitRows, widths.hidden},
      {&logits, wanted.logitRows, widths.vocab}};
  for (const auto& [buffer, rows, width] : buffers)
    SLIM_RETURN_IF_ERROR(cuda::reserve(device, std::max<size_t>(rows, 1) * width, about, *buffer));
  const size_t parts = wanted.slices > 1 ? wanted.tiles * wanted.slices : 1;
  SLIM_RETURN_IF_ERROR(cuda::reserve(device, parts * widths.attentionSums, about, sums));
  SLIM_RETURN_IF_ERROR(cuda::reserve(device, parts * widths.attentionMoments, about, moments));
  const size_t words =
      2 * wanted.sequences * wanted.pagesOfSequence + 4 * wanted.tiles + 3 * wanted.rows + wanted.logitRows;
  SLIM_RETURN_IF_ERROR(cuda::reserve(device, words, about, inputs_));
  SLIM_RETURN_IF_ERROR(sampling.reserve(device, wanted.sampling));
  shape = wanted;
  DeviceAddress at = inputs_.address();
  const auto take = [&at](size_t count) { return std::exchange(at, at + 4 * count); };
  pages = take(2 * shape.sequences * shape.pagesOfSequence);
  tiles = take(4 * shape.tiles);
  ids = take(shape.rows);
  positions = take(shape.rows);
  sequences = take(shape.rows);
  logitRows = take(shape.logitRows);
  return Status::success();
}

Status DevicePass::upload(Device& device, const PassInput& input) {
  std::vector<uint32_t> words(inputs_.count());
  auto* page = reinterpret_cast<uint64_t*>(words.data());
  uint32_t* tile = words.data() + (tiles - pages) / 4;
  int32_t* id = reinterpret_cast<int32_t*>(words.data() + (ids - pages) / 4);
  int32_t *position = id + shape.rows, *sequence = position + shape.rows, *logitRow = sequence + shape.rows;
  std::copy(input.ids.begin(), input.ids.end(), id);
  std::copy(input.logitRows.begin(), input.logitRows.end(), logitRow);
  const size_t tokensOfTile = shape.tileRows / input.headsOfTile;
  size_t row = 0;
  for (size_t s = 0; s < input.chunks.size(); ++s) {
    const PassChunk& chunk = input.chunks[s];
    for (size_t p = 0; p < std::min(chunk.cache->pages(), shape.pagesOfSequence); ++p)
      page[s * shape.pagesOfSequence + p] = chunk.cache->page(p);
    for (size_t t = 0; t < chunk.length; t += tokensOfTile) {
      const size_t tokens = std::min(tokensOfTile, chunk.length - t);
      for (const size_t value : {row + t, tokens, s, chunk.start + t}) *tile++ = uint32_t(value);
    }
    for (size_t t = 0; t < chunk.length; ++t) {
      *position++ = int32_t(chunk.start + t);
      *sequence++ = int32_t(s);
    }
    row += chunk.length;
  }
  SLIM_RETURN_IF_ERROR(sampling.upload(device, input.sampling));
  return device.copyToDevice(inputs_.address(), words.data(), words.size() * 4);
}

Status DeviceNorm::make(Device& device, const Norm& source, const std::string& about, DeviceNorm& out) {
  if (!source) return Status::success();
  out.type = source.kind() == NormSpec::Kind::Rms ? NormType::Rms : NormType::Layer;
  out.eps = source.eps();
  SLIM_RETURN_IF_ERROR(device.upload(source.weight().data(), source.size(), about, out.weight));
  if (source.bias().empty()) return Status::success();
  return device.upload(source.bias().data(), source.size(), about, out.bias);
}

Status DeviceNorm::apply(Device& device, const Rows& rows) const {
  NormArguments a{};
  a.x = addressOf<const float>(rows.x);
  a.weight = addressOf<const float>(weight.address());
  a.bias = addressOf<const float>(bias.address());
  a.rowIndices = addressOf<const int32_t>(rows.rowIndices);
  a.out = addressOf<float>(rows.out);
  a.xStride = a.outStride = rows.width;
  a.size = uint32_t(rows.width);
  a.type = uint32_t(type);
  a.accumulate = rows.accumulate;
  a.eps = eps;
  return device.launch("normRows", {.gridX = unsigned(rows.rows), .threads = 256}, a,
                       std::to_string(rows.rows) + " rows × " + std::to_string(rows.width));
}

Status DeviceNorm::backward(Device& device, const GradientRows& rows) const {
  NormBackwardArguments a{};
  a.x = addressOf<const float>(rows.x);
  a.weight = addressOf<const float>(weight.address());
  a.outputGradients = addressOf<const float>(rows.outputGradients);
  a.inputGradients = addressOf<float>(rows.inputGradients);
  a.size = uint32_t(rows.width);
  a.type = uint32_t(type);
  a.accumulate = rows.accumulate;
  a.eps = eps;
  return device.launch("normRowsBackward", {.gridX = unsigned(rows.rows), .threads = 256}, a,
                       std::to_string(rows.rows) + " rows × " + std::to_string(rows.width));
}

}  // namespace slim::cuda
