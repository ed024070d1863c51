#include "cuda/device_cache.h"

namespace slim::cuda {
namespace {

size_t pagesOf(size_t length) { return (length + kCachePage - 1) / kCachePage; }

}  // namespace

void CacheLayout::add(const BlockSpec& spec, size_t elementBytes) {
  blockOffsets.push_back(pageBytes);
  pageBytes += 2 * spec.kvHeads * kCachePage * paddedHeadDim(uint32_t(spec.headDim)) * elementBytes;
}

Status DeviceCache::makePage(Page& out) const {
  out = std::make_shared<DeviceBuffer<uint8_t>>();
  return device_->allocate(layout_->pageBytes, "a page of the KV cache", *out);
}

Status DeviceCache::reserve(size_t end) {
  for (size_t page = length() / kCachePage; page < pagesOf(end); ++page) {
    const bool isNew = page == pages_.size();
    if (!isNew && pages_[page].use_count() == 1) continue;
    Page own;
    SLIM_RETURN_IF_ERROR(makePage(own));
    if (isNew) {
      pages_.push_back(std::move(own));
      continue;
    }
    SLIM_RETURN_IF_ERROR(device_->copyOnDevice(own->address(), pages_[page]->address(), layout_->pageBytes));
    pages_[page] = std::move(own);
  }
  return Status::success();
}

void DeviceCache::dropPages(size_t length) { pages_.resize(pagesOf(length)); }

void DeviceCache::sharePages(const SequenceCache& from, size_t length) {
  const auto& pages = static_cast<const DeviceCache&>(from).pages_;
  pages_ = std::vector<Page>(pages.begin(), pages.begin() + ptrdiff_t(pagesOf(length)));
}

}  // namespace slim::cuda
