// The KV cache of one sequence, wherever it lies: its length, its limit, and the pages that it shares with
// caches of the same beginning.
#pragma once
#include <cstddef>
#include <optional>
#include <string_view>

#include "core/status.h"

namespace slim {

/// I8: of each position and head the largest magnitude is 127, with a float16 scale.
enum class CacheDType { F16, I8, F32 };

std::optional<CacheDType> cacheDTypeFromName(std::string_view name);
const char* cacheDTypeName(CacheDType dtype);

/// Caches with a common prefix share the pages that it fills (copyPrefix); a shared page is copied before it
/// is written.
class SequenceCache {
 public:
  virtual ~SequenceCache() = default;
  SequenceCache(const SequenceCache&) = delete;
  SequenceCache& operator=(const SequenceCache&) = delete;

  size_t length() const { return length_; }
  size_t capacity() const { return capacity_; }
  CacheDType dtype() const { return dtype_; }
  /// Of the pages, shared ones included.
  virtual size_t bytes() const = 0;

  void advance(size_t tokens) { length_ += tokens; }
  Status truncate(size_t length);
  /// Becomes the first `length` positions of `from`, a cache of the same model.
  Status copyPrefix(const SequenceCache& from, size_t length);

 protected:
  SequenceCache(size_t capacity, CacheDType dtype) : capacity_(capacity), dtype_(dtype) {}

 private:
  /// Lets go of the pages that the first `length` positions leave empty.
  virtual void dropPages(size_t length) = 0;
  virtual void sharePages(const SequenceCache& from, size_t length) = 0;

  size_t length_ = 0, capacity_;
  CacheDType dtype_;
};

}  // namespace slim
