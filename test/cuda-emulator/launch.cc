#include "launch.h"

#include <algorithm>

namespace slim::emulator {

namespace {

constexpr uint32_t kAtomicWriter = 0x80000000u, kManyReaders = 0x80000000u;

}  // namespace

Launch::Launch(const LaunchRequest& request, DeviceMemory& memory, uint64_t seed, uint64_t instructionLimit)
    : request(request),
      program(*request.program),
      memory(memory),
      instructionLimit(instructionLimit),
      state_(seed * 0x9e3779b97f4a7c15 + 1),
      ctas_(request.grid[0] * request.grid[1] * request.grid[2]),
      stampBase_(memory.beginLaunch(uint64_t{request.grid[0]} * request.grid[1] * request.grid[2])) {}

void Launch::run() {
  Cta cta(*this);
  for (uint32_t linear = 0; linear < ctas_ && !failed(); linear++) {
    cta.start(linear);
    cta.run();
  }
}

// xorshift64*: any generator would do, the order of the warps only has to differ from seed to seed.
uint32_t Launch::random(uint32_t below) {
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return static_cast<uint32_t>((state_ * 0x2545f4914f6cdd1d >> 32) * below >> 32);
}

std::string Launch::touchGlobal(const Cta& cta, Allocation& allocation, uint64_t offset, uint32_t bytes,
                                Access access) {
  const uint32_t stamp = stampBase_ + static_cast<uint32_t>(cta.linear) + 1;
  std::string race;
  const auto racing = [&](uint32_t stamped, const char* did) {
    const uint32_t other = stamped - stampBase_ - 1;
    if (isOrdered(cta, other)) return false;
    race = "CTA " + std::to_string(other) + " " + did + " it in this launch";
    return true;
  };
  allocation.cells.visit(offset, bytes, [&](GlobalCell& cell) {
    const uint32_t writer = cell.writer & ~kAtomicWriter;
    const bool bothAtomic = access == Access::kAtomic && (cell.writer & kAtomicWriter);
    if (writer > stampBase_ && writer != stamp && !bothAtomic && racing(writer, "wrote")) return false;
    const uint32_t reader = cell.reader & ~kManyReaders;
    const bool readNow = reader > stampBase_;
    if (access == Access::kRead) {
      if (!readNow || (reader != stamp && isOrdered(cta, reader - stampBase_ - 1) && reader == cell.reader)) {
        cell.reader = stamp;
      } else if (reader != stamp) {
        cell.reader = stamp | kManyReaders;
      }
      return true;
    }
    if (readNow && (cell.reader & kManyReaders)) {
      for (uint32_t other = 0; other < cta.linear; other++) {
        if (!isOrdered(cta, other)) {
          race = "several CTAs read it in this launch";
          return false;
        }
      }
    } else if (readNow && reader != stamp && racing(reader, "read")) {
      return false;
    }
    cell.reader = 0;
    cell.writer = stamp | (access == Access::kAtomic ? kAtomicWriter : 0);
    return true;
  });
  return race;
}

void Launch::synchronizeOn(Cta& cta, uint64_t address) {
  std::vector<uint64_t>& released = released_[address];
  if (!released.empty()) {
    cta.acquired.resize(released.size());
    for (size_t i = 0; i < released.size(); i++) cta.acquired[i] |= released[i];
  }
  if (!cta.fenced) return;
  released.resize(ctas_ / 64 + 1);
  for (size_t i = 0; i < cta.acquired.size(); i++) released[i] |= cta.acquired[i];
  released[cta.linear / 64] |= uint64_t{1} << cta.linear % 64;
}

}  // namespace slim::emulator
