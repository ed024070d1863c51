// Keys and values of the past tokens of one sequence in all blocks, in pages that are made as it grows.
#pragma once
#include <memory>
#include <optional>
#include <string_view>
#include <vector>

#include "decoder/block_spec.h"
#include "decoder/key_values.h"

namespace slim {

/// I8: of each position and head the largest magnitude is 127, with a float16 scale.
enum class CacheDType { F16, I8, F32 };

std::optional<CacheDType> cacheDTypeFromName(std::string_view name);
const char* cacheDTypeName(CacheDType dtype);

constexpr size_t kPagePositions = 128;

/// One head's keys and values in a page, in the cache's dtype.
struct KvSlab {
  void* keys;                         // [kPagePositions / kKeyPanel][headDim][kKeyPanel]
  void* values;                       // [kPagePositions][paddedHead(headDim)]
  uint16_t *keyScales, *valueScales;  // [kPagePositions] float16, of I8 alone
};

/// Caches with a common prefix share the pages that it fills (copyPrefix); a shared page is copied before it
/// is written.
class KvCache {
 public:
  static Status make(const std::vector<const BlockSpec*>& blocks, size_t capacity, CacheDType dtype,
                     std::shared_ptr<KvCache>& out);

  size_t length() const { return length_; }
  size_t capacity() const { return capacity_; }
  CacheDType dtype() const { return dtype_; }
  /// Of the pages, shared ones included.
  size_t bytes() const { return pages_.size() * pageBytes_; }

  /// Memory for the positions before `end`, of which those from length() on can be stored. Throws
  /// std::bad_alloc; the cache's contents stay as they were.
  void reserve(size_t end);
  void store(size_t block, size_t kvHead, size_t position, const float* key, const float* value);
  KvSlab slab(size_t block, size_t kvHead, size_t page) const;
  void advance(size_t tokens) { length_ += tokens; }

  Status truncate(size_t length);
  /// Becomes the first `length` positions of `from`, a cache of the same model.
  Status copyPrefix(const KvCache& from, size_t length);

 private:
  /// Where the heads of a block lie in a page, in bytes.
  struct BlockLayout {
    size_t headDim, offset, headBytes, valueOffset, scaleOffset;
  };
  struct Page;
  using PagePtr = std::shared_ptr<Page>;
  PagePtr makePage() const;

  CacheDType dtype_ = CacheDType::F16;
  size_t length_ = 0, capacity_ = 0, pageBytes_ = 0;
  std::vector<BlockLayout> blocks_;
  std::vector<PagePtr> pages_;
};

}  // namespace slim
