// The shared memory of one CTA with its shadow: bytes ever written, words that an asynchronous copy is still
// to fill, and the warps that touched each word, ordered by the barriers between them (vector clocks, as
// FastTrack).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "paged_cells.h"

namespace slim::emulator {

constexpr uint32_t kMaxWarps = 32;

// Which barriers each warp knows the others to have passed. An event carries the number of barriers that the
// CTA had completed; it lies before what warp w does now when w knows of a later barrier of the event's warp.
class BarrierClock {
 public:
  void reset() { *this = BarrierClock(); }
  uint32_t now() const { return tick_; }
  bool ordered(uint32_t before, uint32_t stamp, uint32_t warp) const {
    return before == warp || known_[warp][before] > stamp;
  }
  // A warp arrives without waiting: what it did until now is what the waiters may rely on.
  void arrive(uint32_t warp, std::array<uint32_t, kMaxWarps>& joined);
  // The barrier completes: all of these warps know what any of them knew.
  void release(const std::vector<uint32_t>& warps, std::array<uint32_t, kMaxWarps>& joined);

 private:
  uint32_t tick_ = 1;
  std::array<std::array<uint32_t, kMaxWarps>, kMaxWarps> known_{};
};

struct SharedCell {
  uint32_t writer = 0;  // stamp << 6 | warp << 1 | by an atomic
  uint32_t reader = 0;  // stamp << 5 | warp, or top bit and an index of the readers' stamps
};

enum class Access : uint8_t { kRead, kWrite, kAtomic };

class SharedMemory {
 public:
  void reset(uint32_t bytes);

  uint32_t bytes() const { return static_cast<uint32_t>(data_.size()); }
  uint8_t* data() { return data_.data(); }

  bool written(uint32_t offset, uint32_t bytes) const;
  void markWritten(uint32_t offset, uint32_t bytes);
  // Words that an asynchronous copy has been told to fill and that no wait has completed.
  bool pending(uint32_t offset, uint32_t bytes) const;
  void addPending(uint32_t offset, uint32_t bytes, int count);

  // Enters an access into the shadow. Returns an empty string, or with whom it races.
  std::string touch(uint32_t offset, uint32_t bytes, uint32_t warp, Access access, const BarrierClock& clock);

 private:
  using ReaderStamps = std::array<uint32_t, kMaxWarps>;
  std::string enter(SharedCell& cell, uint32_t warp, Access access, const BarrierClock& clock);
  std::string readersRacing(const SharedCell& cell, uint32_t warp, const BarrierClock& clock) const;
  void addReader(SharedCell& cell, uint32_t warp, const BarrierClock& clock);

  std::vector<uint8_t> data_, written_, pending_;
  PagedCells<SharedCell> cells_;
  std::vector<ReaderStamps> readers_;
};

}  // namespace slim::emulator
