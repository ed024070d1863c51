#include "device_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "findings.h"

namespace slim::emulator {

namespace {

constexpr uint64_t kAddressAlign = 256;  // what cuMemAlloc promises
// Between allocations lies memory that belongs to none, so that an access past the end is seen.
constexpr uint64_t kGuardBytes = 1 << 16;
constexpr uint64_t kFirstAddress = 0x7f0000000000;
constexpr uint64_t kAddressesPerDevice = uint64_t{1} << 36;
constexpr uint32_t kStampLimit = 0x7ffffff0;

// Pages come from the system when first touched: an emulated cache of gigabytes costs what is used of it.
uint8_t* mapPages(uint64_t bytes) {
  void* pages =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return pages == MAP_FAILED ? nullptr : static_cast<uint8_t*>(pages);
}

uint64_t bitmapBytes(uint64_t bytes) { return bytes / 8 + 16; }

}  // namespace

Allocation::Allocation(uint64_t address, uint64_t bytes, std::string label)
    : address(address),
      bytes(bytes),
      label(std::move(label)),
      data(mapPages(bytes)),
      cells(bytes + 16),
      written_(mapPages(bitmapBytes(bytes))) {}

Allocation::~Allocation() {
  if (data != nullptr) munmap(data, bytes);
  if (written_ != nullptr) munmap(written_, bitmapBytes(bytes));
}

void Allocation::markRangeWritten(uint64_t offset, uint64_t count) {
  const uint64_t end = offset + count;
  for (; offset < end && offset % 8 != 0; offset++) written_[offset / 8] |= 1 << offset % 8;
  const uint64_t whole = (end - offset) / 8;
  if (end > offset) std::memset(written_ + offset / 8, 0xff, whole);
  for (offset += whole * 8; offset < end; offset++) written_[offset / 8] |= 1 << offset % 8;
}

void Allocation::copyWritten(uint64_t offset, const Allocation& from, uint64_t fromOffset, uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    const bool isWritten = from.written_[(fromOffset + i) / 8] >> (fromOffset + i) % 8 & 1;
    const uint8_t bit = 1 << (offset + i) % 8;
    uint8_t& bits = written_[(offset + i) / 8];
    bits = isWritten ? bits | bit : bits & ~bit;
  }
}

DeviceMemory::DeviceMemory(int device, uint64_t totalBytes)
    : next_(kFirstAddress + device * kAddressesPerDevice), totalBytes_(totalBytes) {}

uint64_t DeviceMemory::allocate(uint64_t bytes, const std::string& label) {
  if (bytes > freeBytes()) return 0;
  auto allocation = std::make_unique<Allocation>(next_, bytes, label);
  if (allocation->data == nullptr) return 0;
  const uint64_t address = next_;
  next_ += (bytes + kGuardBytes + kAddressAlign - 1) / kAddressAlign * kAddressAlign;
  usedBytes_ += bytes;
  live_[address] = std::move(allocation);
  return address;
}

bool DeviceMemory::release(uint64_t address) {
  const auto found = live_.find(address);
  if (found == live_.end()) return false;
  released_[address] = found->second->bytes;
  usedBytes_ -= found->second->bytes;
  if (latest_ == found->second.get()) latest_ = nullptr;
  live_.erase(found);
  return true;
}

Allocation* DeviceMemory::find(uint64_t address) {
  if (latest_ != nullptr && address - latest_->address < latest_->bytes) return latest_;
  auto after = live_.upper_bound(address);
  if (after == live_.begin()) return nullptr;
  Allocation* allocation = std::prev(after)->second.get();
  if (address - allocation->address >= allocation->bytes) return nullptr;
  return latest_ = allocation;
}

Allocation* DeviceMemory::findRange(uint64_t address, uint64_t bytes) {
  Allocation* allocation = find(address);
  return allocation != nullptr && bytes <= allocation->bytes - (address - allocation->address) ? allocation
                                                                                               : nullptr;
}

std::string DeviceMemory::describe(uint64_t address) const {
  const auto name = [](const Allocation& allocation) {
    return (allocation.label.empty() ? "the allocation of " : "the variable " + allocation.label + " of ") +
           std::to_string(allocation.bytes) + " bytes at " + hexadecimal(allocation.address);
  };
  const auto freed = released_.upper_bound(address);
  if (freed != released_.begin() && address - std::prev(freed)->first < std::prev(freed)->second) {
    const auto& [at, bytes] = *std::prev(freed);
    return "byte " + std::to_string(address - at) + " of an allocation of " + std::to_string(bytes) +
           " bytes that was freed";
  }
  if (address < 4096) return "a null pointer";
  const auto after = live_.upper_bound(address);
  if (after != live_.begin()) {
    const Allocation& before = *std::prev(after)->second;
    const uint64_t past = address - before.address - before.bytes;
    if (address - before.address < before.bytes) return "the end of " + name(before);
    if (past < kGuardBytes) return std::to_string(past) + " bytes past the end of " + name(before);
  }
  if (after != live_.end() && after->first - address < kGuardBytes) {
    return std::to_string(after->first - address) + " bytes before " + name(*after->second);
  }
  return "no allocation";
}

std::string DeviceMemory::leaks() const {
  uint64_t count = 0, bytes = 0;
  std::string first;
  for (const auto& [address, allocation] : live_) {
    if (!allocation->label.empty()) continue;
    if (count++ < 4) first += " " + std::to_string(allocation->bytes) + " at " + hexadecimal(address) + ";";
    bytes += allocation->bytes;
  }
  if (count == 0) return "";
  return std::to_string(count) + (count == 1 ? " allocation of " : " allocations of ") +
         std::to_string(bytes) + " bytes of device memory never freed (bytes and address:" + first +
         (count > 4 ? " …)" : ")");
}

uint32_t DeviceMemory::beginLaunch(uint64_t ctas) {
  if (stamp_ + ctas > kStampLimit) {
    for (auto& [address, allocation] : live_) allocation->cells.clear();
    stamp_ = 0;
  }
  const auto base = static_cast<uint32_t>(stamp_);
  stamp_ += ctas;
  return base;
}

}  // namespace slim::emulator
