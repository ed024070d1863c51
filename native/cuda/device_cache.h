// The KV cache of one sequence on a device, in pages of kCachePage positions of all blocks, float16.
#pragma once
#include <memory>
#include <vector>

#include "cuda/device.h"
#include "cuda/kernels/decoder_arguments.h"
#include "decoder/block_spec.h"
#include "decoder/sequence_cache.h"

namespace slim::cuda {

/// Where the blocks lie in a page, in bytes: of each all heads' keys, then all heads' values.
struct CacheLayout {
  std::vector<size_t> blockOffsets;
  size_t pageBytes = 0;

  /// `elementBytes`: of a key's or value's elements, float16 or (passes near float32 alone) float32.
  void add(const BlockSpec& spec, size_t elementBytes = sizeof(uint16_t));
};

class DeviceCache final : public SequenceCache {
 public:
  DeviceCache(std::shared_ptr<Device> device, std::shared_ptr<const CacheLayout> layout, size_t capacity)
      : SequenceCache(capacity, CacheDType::F16), device_(std::move(device)), layout_(std::move(layout)) {}

  size_t bytes() const override { return pages_.size() * layout_->pageBytes; }
  size_t pages() const { return pages_.size(); }
  DeviceAddress page(size_t index) const { return pages_[index]->address(); }

  /// Memory for the positions before `end`, of which those from length() on can be written. The caller holds
  /// device.use().
  Status reserve(size_t end);

 private:
  using Page = std::shared_ptr<DeviceBuffer<uint8_t>>;
  void dropPages(size_t length) override;
  void sharePages(const SequenceCache& from, size_t length) override;
  Status makePage(Page& out) const;

  std::shared_ptr<Device> device_;  // outlives the pages
  std::shared_ptr<const CacheLayout> layout_;
  std::vector<Page> pages_;
};

}  // namespace slim::cuda
