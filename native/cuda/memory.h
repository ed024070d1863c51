// Device memory: a pool with free lists by size, and the buffers it hands out.
#pragma once
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda/driver.h"

namespace slim::cuda {

/// Memory goes back to the pool, not to the driver: the work of one stream alone uses a pool, so what was
/// queued before still finds its data, and what is queued next comes after it.
class MemoryPool {
 public:
  MemoryPool(const Driver& driver, Handle context) : driver_(driver), context_(context) {}
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// At least `bytes`; `about` is what the error names. Asks the driver again once all free lists are given
  /// back.
  Status allocate(size_t bytes, const std::string& about, DeviceAddress& address);
  void release(DeviceAddress address, size_t bytes);
  /// Bytes that the driver has given and not got back.
  size_t reservedBytes() const;
  /// The most of them at any time.
  size_t peakBytes() const;
  size_t usedBytes() const;

 private:
  static size_t classOf(size_t bytes);
  void trim();

  const Driver& driver_;
  Handle context_;
  mutable std::mutex mutex_;
  std::map<size_t, std::vector<DeviceAddress>> free_;
  size_t reserved_ = 0, peak_ = 0, used_ = 0;
};

/// A run of T on the device; goes back to the pool that made it, which it keeps alive.
template <typename T>
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(pool_, other.pool_);
    std::swap(address_, other.address_);
    std::swap(count_, other.count_);
    return *this;
  }
  ~DeviceBuffer() {
    if (pool_) pool_->release(address_, bytes());
  }

  static Status make(const std::shared_ptr<MemoryPool>& pool, size_t count, const std::string& about,
                     DeviceBuffer& out) {
    DeviceBuffer buffer;
    SLIM_RETURN_IF_ERROR(pool->allocate(count * sizeof(T), about, buffer.address_));
    buffer.pool_ = pool;
    buffer.count_ = count;
    out = std::move(buffer);
    return Status::success();
  }

  DeviceAddress address() const { return address_; }
  size_t count() const { return count_; }
  size_t bytes() const { return count_ * sizeof(T); }

 private:
  std::shared_ptr<MemoryPool> pool_;
  DeviceAddress address_ = 0;
  size_t count_ = 0;
};

}  // namespace slim::cuda
