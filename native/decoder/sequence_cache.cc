#include "decoder/sequence_cache.h"

#include <string>
#include <utility>

namespace slim {
namespace {

constexpr std::pair<const char*, CacheDType> kDTypes[] = {
    {"F16", CacheDType::F16}, {"I8", CacheDType::I8}, {"F32", CacheDType::F32}};

Status checkLength(size_t length, size_t most) {
  if (length <= most) return Status::success();
  return Status::invalidArgument("length", "at most the " + std::to_string(most) + " tokens of the cache",
                                 std::to_string(length));
}

}  // namespace

std::optional<CacheDType> cacheDTypeFromName(std::string_view name) {
  for (const auto& [known, dtype] : kDTypes)
    if (name == known) return dtype;
  return std::nullopt;
}

const char* cacheDTypeName(CacheDType dtype) {
  for (const auto& [name, known] : kDTypes)
    if (dtype == known) return name;
  return "";
}

Status SequenceCache::truncate(size_t length) {
  SLIM_RETURN_IF_ERROR(checkLength(length, length_));
  length_ = length;
  dropPages(length);
  return Status::success();
}

Status SequenceCache::copyPrefix(const SequenceCache& from, size_t length) {
  if (from.dtype_ != dtype_)
    return Status::invalidArgument("from", std::string("a cache of ") + cacheDTypeName(dtype_),
                                   cacheDTypeName(from.dtype_));
  SLIM_RETURN_IF_ERROR(checkLength(length, from.length_));
  if (length > capacity_)
    return Status::invalidArgument("length", "at most the capacity, " + std::to_string(capacity_),
                                   std::to_string(length), "Make a cache with a larger capacity");
  sharePages(from, length);
  length_ = length;
  return Status::success();
}

}  // namespace slim
