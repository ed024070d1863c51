#include "cuda/memory.h"

#include <algorithm>
#include <bit>

namespace slim::cuda {

MemoryPool::~MemoryPool() { trim(); }

// Eight sizes to a power of two: at most an eighth is wasted, and a size that comes again finds its like.
size_t MemoryPool::classOf(size_t bytes) {
  constexpr size_t kLeast = 256;  // what the driver aligns to
  const size_t step = std::max(kLeast, std::bit_floor(std::max(bytes, kLeast)) / 8);
  return (std::max(bytes, size_t(1)) + step - 1) / step * step;
}

Status MemoryPool::allocate(size_t bytes, const std::string& about, DeviceAddress& address) {
  const size_t size = classOf(bytes);
  std::lock_guard lock(mutex_);
  auto& list = free_[size];
  if (!list.empty()) {
    address = list.back();
    list.pop_back();
  } else {
    driver_.contextSetCurrent(context_);
    Result result = driver_.memoryAllocate(&address, size);
    if (result == kErrorOutOfMemory) {
      trim();
      result = driver_.memoryAllocate(&address, size);
    }
    SLIM_RETURN_IF_ERROR(
        driver_.check(result, "cuMemAlloc", std::to_string(size) + " bytes of device memory for " + about));
    reserved_ += size;
    peak_ = std::max(peak_, reserved_);
  }
  used_ += size;
  return Status::success();
}

void MemoryPool::release(DeviceAddress address, size_t bytes) {
  const size_t size = classOf(bytes);
  std::lock_guard lock(mutex_);
  free_[size].push_back(address);
  used_ -= size;
}

void MemoryPool::trim() {
  driver_.contextSetCurrent(context_);
  for (auto& [size, list] : free_) {
    for (const DeviceAddress address : list) driver_.memoryFree(address);
    reserved_ -= size * list.size();
    list.clear();
  }
}

size_t MemoryPool::reservedBytes() const {
  std::lock_guard lock(mutex_);
  return reserved_;
}

size_t MemoryPool::peakBytes() const {
  std::lock_guard lock(mutex_);
  return peak_;
}

size_t MemoryPool::usedBytes() const {
  std::lock_guard lock(mutex_);
  return used_;
}

}  // namespace slim::cuda
