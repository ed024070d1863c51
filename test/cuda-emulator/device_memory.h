// The global memory of one emulated device: allocations at addresses of their own that are never used again,
// and for each byte whether it was ever written and who touched it in the present launch.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "paged_cells.h"

namespace slim::emulator {

// The last CTA that wrote and the last that read, as stamps of this launch (older stamps are stale).
struct GlobalCell {
  uint32_t writer = 0;  // top bit: by an atomic
  uint32_t reader = 0;  // top bit: by several CTAs
};

class Allocation {
 public:
  Allocation(uint64_t address, uint64_t bytes, std::string label);
  ~Allocation();
  Allocation(const Allocation&) = delete;
  Allocation& operator=(const Allocation&) = delete;

  // Whether all of a range is known to be written; of an aligned access of up to 16 bytes by one load.
  bool written(uint64_t offset, uint32_t bytes) const {
    uint16_t bits;
    __builtin_memcpy(&bits, written_ + (offset >> 4) * 2, 2);
    const uint32_t wanted = ((1u << bytes) - 1) << (offset & 15);
    return (bits & wanted) == wanted;
  }
  void markWritten(uint64_t offset, uint32_t bytes) {
    uint16_t bits;
    __builtin_memcpy(&bits, written_ + (offset >> 4) * 2, 2);
    bits = static_cast<uint16_t>(bits | ((1u << bytes) - 1) << (offset & 15));
    __builtin_memcpy(written_ + (offset >> 4) * 2, &bits, 2);
  }
  void markRangeWritten(uint64_t offset, uint64_t bytes);
  void copyWritten(uint64_t offset, const Allocation& from, uint64_t fromOffset, uint64_t bytes);

  const uint64_t address, bytes;
  const std::string label;  // empty: by cuMemAlloc; else the module variable's name
  uint8_t* data = nullptr;
  PagedCells<GlobalCell> cells;

 private:
  uint8_t* written_ = nullptr;  // one bit a byte
};

class DeviceMemory {
 public:
  DeviceMemory(int device, uint64_t totalBytes);

  // 0 when there is not so much memory left.
  uint64_t allocate(uint64_t bytes, const std::string& label);
  bool release(uint64_t address);
  // The allocation that holds this address, or null.
  Allocation* find(uint64_t address);
  // The allocation that holds the whole range, or null.
  Allocation* findRange(uint64_t address, uint64_t bytes);
  // What is at an address that is not (wholly) in an allocation, in words.
  std::string describe(uint64_t address) const;

  uint64_t totalBytes() const { return totalBytes_; }
  uint64_t freeBytes() const { return totalBytes_ - usedBytes_; }
  std::string leaks() const;

  // Stamps of the CTAs of a new launch are from the returned base + 1 on.
  uint32_t beginLaunch(uint64_t ctas);

 private:
  std::map<uint64_t, std::unique_ptr<Allocation>> live_;
  std::map<uint64_t, uint64_t> released_;  // address to bytes
  Allocation* latest_ = nullptr;
  uint64_t next_, totalBytes_, usedBytes_ = 0;
  uint64_t stamp_ = 0;
};

}  // namespace slim::emulator
