#include "cpu/interleaved_matrix.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <string>

#include "cpu/weight_memory.h"
#include "quant/packed_matrix.h"

namespace slim {
namespace {

constexpr size_t kTileRows = InterleavedMatrix::kTileRows, kQuads = InterleavedMatrix::kQuads;

/// Codes of 16 rows × one block as quads: word 16·quad + r has columns 4·quad … + 3 of row r in its bytes.
using Quads = uint32_t[kQuads * kTileRows];

// The planes of a block, from the lowest bits of the codes up to the highest. Returns the end of what it
// wrote.
uint8_t* packBlock(const Quads& quads, unsigned bits, uint8_t* out) {
  unsigned shift = 0;
  for (unsigned width : {8u, 4u, 2u, 1u}) {  // the binary digits of bits
    if (!(bits & width)) continue;
    const unsigned fields = 8 / width;
    const uint32_t mask = ((1u << width) - 1) * 0x01010101u;
    for (size_t line = 0; line < width; ++line, out += 64) {
      uint32_t words[kTileRows] = {};
      for (unsigned field = 0; field < fields; ++field)
        for (size_t r = 0; r < kTileRows; ++r)
          words[r] |= ((quads[(line * fields + field) * kTileRows + r] >> shift) & mask) << (field * width);
      std::memcpy(out, words, sizeof words);
    }
    shift += width;
  }
  return out;
}

}  // namespace

Status InterleavedMatrix::make(const PackedMatrix& source, ThreadPool& pool, const CancelFlag& cancelled,
                               std::shared_ptr<const InterleavedMatrix>& out) {
  auto matrix = std::make_shared<InterleavedMatrix>();
  matrix->rows_ = source.rows();
  const Segments cut = matrix->cut_ = {source.cols(), source.groupSize()};
  const auto bitsOf = [&](size_t segment) {
    return unsigned(source.groupBits()->data()[cut.group(segment)]);
  };

  std::vector<size_t> order(cut.count());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return bitsOf(a) < bitsOf(b); });
  size_t metaBytes = 0, bytes = 0;
  for (size_t segment : order) metaBytes += InterleavedMatrix::metaBytes(bitsOf(segment));
  bytes = (metaBytes + 63) / 64 * 64;
  metaBytes = 0;
  for (size_t segment : order) {
    const unsigned bits = bitsOf(segment);
    const size_t blocks = cut.paddedWidth(segment) / Segments::kUnit;
    if (matrix->runs_.empty() || matrix->runs_.back().bits != bits)
      matrix->runs_.push_back({bits, uint32_t(matrix->segments_.size()), 0});
    ++matrix->runs_.back().count;
    matrix->segments_.push_back({uint32_t(segment), uint32_t(cut.paddedBegin(segment)), uint32_t(blocks),
                                 uint32_t(metaBytes), uint32_t(bytes)});
    metaBytes += InterleavedMatrix::metaBytes(bits);
    bytes += blocks * blockBytes(bits);
  }
  constexpr size_t kMostTileBytes = size_t(1) << 31;
  if (bytes > kMostTileBytes || cut.paddedCols() > kMostTileBytes)
    return Status::invalidArgument("cols", "a matrix of which 16 rows fit 2 GiB", std::to_string(cut.cols));
  matrix->tileBytes_ = bytes;
  SLIM_RETURN_IF_ERROR(allocateWeights(matrix->bytes(), matrix->data_));
  pool.parallelFor(matrix->tiles(), [&](size_t tile, int) {
    if (!cancelled.load(std::memory_order_relaxed))
      matrix->pack(source, tile, matrix->data_.get() + tile * bytes);
  });
  if (cancelled.load()) return Status::aborted();
  out = std::move(matrix);
  return Status::success();
}

void InterleavedMatrix::pack(const PackedMatrix& source, size_t tile, uint8_t* out) const {
  const size_t firstRow = tile * kTileRows, rows = std::min(kTileRows, rows_ - firstRow);
  for (const Run& run : runs_) {
    for (const Segment& s : std::span(segments_).subspan(run.first, run.count)) {
      const size_t group = cut_.group(s.segment), start = cut_.begin(s.segment) - group * cut_.groupSize,
                   width = cut_.width(s.segment);
      alignas(64) uint8_t codes[kTileRows][Segments::kMost] = {};
      for (size_t r = 0; r < rows; ++r) {
        source.readCodes(group, firstRow + r, start, width, codes[r]);
        const auto row = source.rowOfGroup(group, firstRow + r);
        uint8_t* meta = out + s.meta;
        std::memcpy(meta + 2 * r, &row.scale, 2);
        if (run.bits == 1)
          std::memcpy(meta + 32 + 2 * r, &row.mean, 2);
        else
          meta[32 + r] = row.zero;
      }
      uint8_t* block = out + s.codes;
      for (size_t b = 0; b < s.blocks; ++b) {
        Quads quads;
        for (size_t q = 0; q < kQuads; ++q)
          for (size_t r = 0; r < kTileRows; ++r)
            std::memcpy(&quads[q * kTileRows + r], &codes[r][b * Segments::kUnit + 4 * q], 4);
        block = packBlock(quads, run.bits, block);
      }
    }
  }
}

}  // namespace slim
