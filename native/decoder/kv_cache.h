// Keys and values of the past tokens of one sequence in all blocks, in pages that are made as it grows.
#pragma once
#include <memory>
#include <vector>

#include "decoder/block_spec.h"
#include "decoder/key_values.h"
#include "decoder/sequence_cache.h"

namespace slim {

constexpr size_t kPagePositions = 128;

/// One head's keys and values in a page, in the cache's dtype.
struct KvSlab {
  void* keys;                         // [kPagePositions / kKeyPanel][headDim][kKeyPanel]
  void* values;                       // [kPagePositions][paddedHead(headDim)]
  uint16_t *keyScales, *valueScales;  // [kPagePositions] float16, of I8 alone
};

class KvCache final : public SequenceCache {
 public:
  KvCache(size_t capacity, CacheDType dtype) : SequenceCache(capacity, dtype) {}
  static Status make(const std::vector<const BlockSpec*>& blocks, size_t capacity, CacheDType dtype,
                     std::shared_ptr<KvCache>& out);

  size_t bytes() const override { return pages_.size() * pageBytes_; }

  /// Memory for the positions before `end`, of which those from length() on can be stored. Throws
  /// std::bad_alloc; the cache's contents stay as they were.
  void reserve(size_t end);
  void store(size_t block, size_t kvHead, size_t position, const float* key, const float* value);
  KvSlab slab(size_t block, size_t kvHead, size_t page) const;

 private:
  void dropPages(size_t length) override;
  void sharePages(const SequenceCache& from, size_t length) override;

  /// Where the heads of a block lie in a page, in bytes.
  struct BlockLayout {
    size_t headDim, offset, headBytes, valueOffset, scaleOffset;
  };
  struct Page;
  using PagePtr = std::shared_ptr<Page>;
  PagePtr makePage() const;

  size_t pageBytes_ = 0;
  std::vector<BlockLayout> blocks_;
  std::vector<PagePtr> pages_;
};

}  // namespace slim
