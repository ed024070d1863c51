// A packed matrix in the order of the integer kernels, made once when a model is loaded.
//
// Sixteen rows make a tile, one contiguous stream. It begins with the scales and offsets of its segments (at
// 2 bits in groups of 128: 48 of 560 bytes a segment) and goes on with their codes, in the order in which a
// kernel reads both. The segments are sorted by width, so that each width is one loop without branches; the
// activations stay where they are, a segment carries its place among them.
//
// Codes of b bits are split into planes of 4, 2 and 1 bits (3 = 2 + 1, from the lowest bits up; 8 is a plane
// of its own). A block is 16 rows × 32 columns: plane by plane, 64 bytes times its width. Seen as quads of
// four columns, quad after quad, a 64-byte line holds the same plane of 8 / width quads, each in its own bits
// of the bytes: byte 4·r + j has columns 4·quad + j of row r. One shift and one mask give the operand of
// vpdpbusd.
#pragma once
#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/thread_pool.h"
#include "cpu/segments.h"
#include "cpu/weight_prefetch.h"

namespace slim {

class PackedMatrix;

class InterleavedMatrix {
 public:
  static constexpr size_t kTileRows = 16;
  static constexpr size_t kQuads = Segments::kUnit / 4;  // of a block

  /// What a kernel needs of a segment; `run` of the same width lie together.
  struct Segment {
    uint32_t segment;  // number in the input's order, of its scales and sums
    uint32_t column;   // padded, of its activations
    uint32_t blocks;   // of 32 columns
    uint32_t meta;     // byte offset in a tile: 16 float16 scales, then 16 zero points (bytes) or, of 1 bit,
                       // 16 float16 means
    uint32_t codes;    // byte offset in a tile of the first block
  };
  struct Run {
    unsigned bits;
    uint32_t first, count;  // of segments()
  };

  static Status make(const PackedMatrix& source, ThreadPool& pool, const CancelFlag& cancelled,
                     std::shared_ptr<const InterleavedMatrix>& out);

  size_t rows() const { return rows_; }
  size_t cols() const { return cut_.cols; }
  size_t groupSize() const { return cut_.groupSize; }
  const Segments& cut() const { return cut_; }

  size_t tiles() const { return (rows_ + kTileRows - 1) / kTileRows; }
  size_t tileBytes() const { return tileBytes_; }
  size_t bytes() const { return tiles() * tileBytes_; }
  /// On a cache line. Rows past the matrix have zero scales.
  const uint8_t* tile(size_t index) const { return data_.get() + index * tileBytes_; }
  const uint8_t* end() const { return tile(tiles()); }
  /// Asks for what a kernel reads first that begins with this tile.
  void prefetch(size_t tile) const {
    prefetchSegments();
    ask(this->tile(tile), kPrefetchBytes);
  }
  /// What a kernel reads at every tile beside it.
  void prefetchSegments() const {
    ask(runs_.data(), runs_.size() * sizeof(Run));
    ask(segments_.data(), segments_.size() * sizeof(Segment));
  }
  size_t codesBegin() const { return segments_[0].codes; }  // of a tile: its scales and offsets come before
  const std::vector<Segment>& segments() const { return segments_; }
  const std::vector<Run>& runs() const { return runs_; }

  /// Bytes of a block, and of a segment's scales and offsets.
  static constexpr size_t blockBytes(unsigned bits) { return 64 * size_t(bits); }
  static constexpr size_t metaBytes(unsigned bits) { return bits == 1 ? 64 : 48; }

 private:
  static void ask(const void* from, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 64) __builtin_prefetch(static_cast<const uint8_t*>(from) + at);
  }
  void pack(const PackedMatrix& source, size_t tile, uint8_t* out) const;

  size_t rows_ = 0, tileBytes_ = 0;
  Segments cut_;
  std::vector<Segment> segments_;
  std::vector<Run> runs_;
  std::shared_ptr<uint8_t> data_;
};

}  // namespace slim
