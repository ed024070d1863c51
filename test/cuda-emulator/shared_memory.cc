#include "shared_memory.h"

#include <algorithm>

namespace slim::emulator {

namespace {

constexpr uint32_t kManyReaders = 0x80000000u;

uint32_t writerWarp(uint32_t writer) { return writer >> 1 & 31; }
uint32_t writerStamp(uint32_t writer) { return writer >> 6; }

}  // namespace

void BarrierClock::arrive(uint32_t warp, std::array<uint32_t, kMaxWarps>& joined) {
  tick_++;
  known_[warp][warp] = tick_;
  for (uint32_t v = 0; v < kMaxWarps; v++) joined[v] = std::max(joined[v], known_[warp][v]);
}

void BarrierClock::release(const std::vector<uint32_t>& warps, std::array<uint32_t, kMaxWarps>& joined) {
  tick_++;
  for (const uint32_t w : warps) {
    known_[w][w] = tick_;
    for (uint32_t v = 0; v < kMaxWarps; v++) joined[v] = std::max(joined[v], known_[w][v]);
  }
  for (const uint32_t w : warps) known_[w] = joined;
}

void SharedMemory::reset(uint32_t bytes) {
  if (bytes != data_.size())
    cells_ = PagedCells<SharedCell>(bytes + 16);
  else
    cells_.clear();
  data_.resize(bytes);
  written_.assign(bytes, 0);
  pending_.assign(bytes / 4 + 1, 0);
  readers_.clear();
}

bool SharedMemory::written(uint32_t offset, uint32_t bytes) const {
  return std::all_of(written_.begin() + offset, written_.begin() + offset + bytes,
                     [](uint8_t w) { return w != 0; });
}

void SharedMemory::markWritten(uint32_t offset, uint32_t bytes) {
  std::fill_n(written_.begin() + offset, bytes, uint8_t{1});
}

bool SharedMemory::pending(uint32_t offset, uint32_t bytes) const {
  for (uint32_t word = offset / 4; word <= (offset + bytes - 1) / 4; word++) {
    if (pending_[word] != 0) return true;
  }
  return false;
}

void SharedMemory::addPending(uint32_t offset, uint32_t bytes, int count) {
  for (uint32_t word = offset / 4; word < (offset + bytes) / 4; word++) {
    pending_[word] = static_cast<uint8_t>(pending_[word] + count);
  }
}

std::string SharedMemory::touch(uint32_t offset, uint32_t bytes, uint32_t warp, Access access,
                                const BarrierClock& clock) {
  std::string race;
  cells_.visit(offset, bytes, [&](SharedCell& cell) {
    race = enter(cell, warp, access, clock);
    return race.empty();
  });
  return race;
}

std::string SharedMemory::enter(SharedCell& cell, uint32_t warp, Access access, const BarrierClock& clock) {
  if (cell.writer != 0) {
    const bool bothAtomic = access == Access::kAtomic && (cell.writer & 1);
    const uint32_t other = writerWarp(cell.writer);
    if (!bothAtomic && !clock.ordered(other, writerStamp(cell.writer), warp)) {
      return "warp " + std::to_string(other) + " wrote it";
    }
  }
  if (access == Access::kRead) {
    addReader(cell, warp, clock);
    return "";
  }
  if (cell.reader != 0) {
    std::string race = readersRacing(cell, warp, clock);
    if (!race.empty()) return race;
  }
  cell.reader = 0;
  cell.writer = clock.now() << 6 | warp << 1 | (access == Access::kAtomic);
  return "";
}

std::string SharedMemory::readersRacing(const SharedCell& cell, uint32_t warp,
                                        const BarrierClock& clock) const {
  if (!(cell.reader & kManyReaders)) {
    const uint32_t other = cell.reader & 31;
    return clock.ordered(other, cell.reader >> 5, warp) ? "" : "warp " + std::to_string(other) + " read it";
  }
  const ReaderStamps& stamps = readers_[cell.reader & ~kManyReaders];
  for (uint32_t other = 0; other < kMaxWarps; other++) {
    if (stamps[other] != 0 && !clock.ordered(other, stamps[other], warp)) {
      return "warp " + std::to_string(other) + " read it";
    }
  }
  return "";
}

void SharedMemory::addReader(SharedCell& cell, uint32_t warp, const BarrierClock& clock) {
  if (cell.reader & kManyReaders) {
    readers_[cell.reader & ~kManyReaders][warp] = clock.now();
  } else if (cell.reader == 0 || clock.ordered(cell.reader & 31, cell.reader >> 5, warp)) {
    cell.reader = clock.now() << 5 | warp;
  } else {
    ReaderStamps stamps{};
    stamps[cell.reader & 31] = cell.reader >> 5;
    stamps[warp] = clock.now();
    cell.reader = kManyReaders | static_cast<uint32_t>(readers_.size());
    readers_.push_back(stamps);
  }
}

}  // namespace slim::emulator
