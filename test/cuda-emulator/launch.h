// One launch: its CTAs run one after another, the warps of a CTA by turns in an order drawn from a seed.
#pragma once

#include <cstdint>
#include <optional>
#include <unordered_map>
#include <vector>

#include "device_memory.h"
#include "findings.h"
#include "metrics.h"
#include "program.h"
#include "shared_memory.h"

namespace slim::emulator {

class Cta;
class Launch;

// Windows of generic addresses; everything else is global memory.
constexpr uint64_t kWindowBytes = uint64_t{1} << 32;
constexpr uint64_t kSharedWindow = uint64_t{1} << 40;
constexpr uint64_t kLocalWindow = kSharedWindow + kWindowBytes;
constexpr uint64_t kParamWindow = kLocalWindow + kWindowBytes;

// Lanes that run together: at pc, until they meet the others at reconverge. A call stands below what the
// called function pushes.
struct StackEntry {
  uint32_t pc, reconverge, mask;
  bool isCall = false;
  bool deferred = false;  // stands before an instruction that wants lanes which are elsewhere
};

// A copy that cp.async has read from global memory and that no wait has yet put into shared memory.
struct AsyncCopy {
  uint32_t sharedOffset, lane, group, bytes;
  uint8_t data[16];
};

enum class WarpState : uint8_t { kRunning, kAtBarrier, kFinished };

class Warp {
 public:
  // 32 lanes of a register: 32-bit words, or 64-bit ones where the slot is declared so.
  template <class Word>
  Word* lanes(uint32_t slot) {
    return reinterpret_cast<Word*>(file + slot);
  }
  StackEntry& top() { return stack.back(); }
  uint32_t alive() const { return present & ~exited; }
  // Ends these lanes; with toCall, only up to the innermost call (a return).
  void removeLanes(uint32_t mask, bool toCall);
  // Lanes that should meet these may only have to run first (to exit, say, or to come here another way):
  // joins those that parted from them at the same branch and stand here already, or lets those that do not
  // stand go on, and has these try again. False when neither is left.
  bool deferToOthers();
  // Takes finished and reconverged entries off the stack.
  void settle();
  void report(const MicroOp& op, uint32_t lanes, const char* kind, int code, const std::string& what);
  Launch& launch() const;

  Cta* cta = nullptr;
  uint32_t index = 0, present = 0, exited = 0;
  uint32_t* file = nullptr;
  uint32_t* predicates = nullptr;
  std::vector<uint8_t> local;  // localBytes a lane, lane after lane
  std::vector<StackEntry> stack;
  WarpState state = WarpState::kRunning;
  uint32_t carry = 0;               // the condition code of add.cc, a bit a lane
  uint32_t committed[kLanes] = {};  // groups of cp.async that the lane has closed
  std::vector<AsyncCopy> copies;
  uint32_t barrier = 0;  // where it waits
  const MicroOp* barrierOp = nullptr;
};

struct Barrier {
  uint32_t arrivedThreads = 0, expected = 0;  // 0: all threads that have not exited
  std::vector<uint32_t> waiting;
  std::array<uint32_t, kMaxWarps> joined{};
  uint32_t count = 0;  // bar.red: threads whose predicate held
  uint32_t threads = 0;
};

class Cta {
 public:
  Cta(Launch& launch);
  void start(uint64_t linear);
  void run();

  // Called by the barrier instructions; expected threads, or 0.
  void arrive(Warp& warp, const MicroOp& op, uint32_t id, uint32_t expected, bool waits, uint32_t predicate,
              uint32_t mask);

  Launch& launch;
  uint32_t position[3] = {};
  uint64_t linear = 0;
  SharedMemory shared;
  BarrierClock clock;
  std::vector<Warp> warps;
  bool fenced = false;
  std::vector<uint64_t> acquired;  // CTAs whose writes are ordered before what this one does now (a bit each)

 private:
  void completeBarriers();
  void reportStuck();
  void fillSpecials(Warp& warp);
  bool runWarp(Warp& warp, uint32_t quantum);

  std::vector<uint32_t> files_, predicates_;
  Barrier barriers_[16];
};

struct LaunchRequest {
  const Program* program = nullptr;
  uint32_t grid[3] = {1, 1, 1}, block[3] = {1, 1, 1};
  uint32_t dynamicShared = 0;
  std::vector<uint8_t> parameters;
};

class Launch {
 public:
  Launch(const LaunchRequest& request, DeviceMemory& memory, uint64_t seed, uint64_t instructionLimit);
  void run();

  void fail(Finding finding) {
    if (!finding_) finding_ = std::move(finding);
  }
  bool failed() const { return finding_.has_value(); }
  const std::optional<Finding>& finding() const { return finding_; }

  // Enters an access to global memory into the shadow. Returns an empty string, or with which CTA it races.
  std::string touchGlobal(const Cta& cta, Allocation& allocation, uint64_t offset, uint32_t bytes,
                          Access access);
  // The order that a fence and an atomic on the same word give (a counter of finished CTAs, a flag).
  void synchronizeOn(Cta& cta, uint64_t address);

  uint32_t random(uint32_t below);
  uint32_t ctas() const { return ctas_; }

  const LaunchRequest& request;
  const Program& program;
  DeviceMemory& memory;
  Metrics metrics;
  const uint64_t instructionLimit;
  uint64_t issued = 0;

 private:
  bool isOrdered(const Cta& cta, uint32_t other) const {
    return other == cta.linear || (!cta.acquired.empty() && (cta.acquired[other / 64] >> other % 64 & 1));
  }
  uint64_t state_;
  uint32_t ctas_;
  uint32_t stampBase_;
  std::optional<Finding> finding_;
  std::unordered_map<uint64_t, std::vector<uint64_t>> released_;
};

inline Launch& Warp::launch() const { return cta->launch; }

}  // namespace slim::emulator
