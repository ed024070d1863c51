// Warps of a CTA: their stacks of lanes that run together, their turns, and the barriers between them.
#include <algorithm>

#include "launch.h"

namespace slim::emulator {

namespace {

// A warp's turn: long enough that switching costs little, short enough that orders differ.
constexpr uint32_t kLongestTurn = 48;

uint64_t specialValue(Special special, const Cta& cta, const Warp& warp, uint32_t lane) {
  const uint32_t* grid = cta.launch.request.grid;
  const uint32_t* block = cta.launch.request.block;
  const uint32_t thread = warp.index * kLanes + lane;
  switch (special) {
    case Special::kTidX:
      return thread % block[0];
    case Special::kTidY:
      return thread / block[0] % block[1];
    case Special::kTidZ:
      return thread / block[0] / block[1];
    case Special::kNtidX:
      return block[0];
    case Special::kNtidY:
      return block[1];
    case Special::kNtidZ:
      return block[2];
    case Special::kCtaidX:
      return cta.position[0];
    case Special::kCtaidY:
      return cta.position[1];
    case Special::kCtaidZ:
      return cta.position[2];
    case Special::kNctaidX:
      return grid[0];
    case Special::kNctaidY:
      return grid[1];
    case Special::kNctaidZ:
      return grid[2];
    case Special::kLaneId:
      return lane;
    case Special::kWarpId:
      return warp.index;
    case Special::kWarps:
      return cta.warps.size();
    case Special::kSmId:
      return 0;
    case Special::kSms:
      return 1;
    case Special::kGridId:
      return 1;
    case Special::kLanemaskEq:
      return 1u << lane;
    case Special::kLanemaskLt:
      return (1u << lane) - 1;
    case Special::kLanemaskLe:
      return (2u << lane) - 1;
    case Special::kLanemaskGt:
      return ~((2u << lane) - 1);
    case Special::kLanemaskGe:
      return ~((1u << lane) - 1);
    case Special::kDynamicShared:
      return cta.launch.request.dynamicShared;
    case Special::kTotalShared:
      return cta.launch.request.dynamicShared + cta.launch.program.sharedBytes;
  }
  return 0;
}

std::string positionOf(const Cta& cta) {
  return "CTA (" + std::to_string(cta.position[0]) + "," + std::to_string(cta.position[1]) + "," +
         std::to_string(cta.position[2]) + ")";
}

}  // namespace

void Warp::removeLanes(uint32_t mask, bool toCall) {
  for (size_t i = stack.size(); i-- > 0;) {
    stack[i].mask &= ~mask;
    if (toCall && stack[i].isCall) return;
  }
  exited |= mask;
}

bool Warp::deferToOthers() {
  StackEntry& here = top();
  for (size_t i = stack.size() - 1; i-- > 0;) {
    StackEntry& other = stack[i];
    if (here.isCall || other.isCall || other.reconverge != here.reconverge || other.pc == other.reconverge)
      return false;
    if (other.mask == 0) continue;
    const bool standsHere = other.deferred && other.pc + 1 == here.pc;
    if (other.deferred && !standsHere) continue;
    here.pc--;
    if (standsHere) {
      here.mask |= other.mask;
      other.mask = 0;
    } else {
      here.deferred = true;
      std::swap(other, here);
    }
    return true;
  }
  return false;
}

void Warp::settle() {
  while (!stack.empty() && (top().mask == 0 || top().pc == top().reconverge)) stack.pop_back();
  if (stack.empty()) state = WarpState::kFinished;
}

void Warp::report(const MicroOp& op, uint32_t lanes, const char* kind, int code, const std::string& what) {
  const Program& program = launch().program;
  const SourceLine& source = program.source[op.statement];
  launch().fail({code, kind,
                 "kernel " + program.name + ", " + positionOf(*cta) + ", warp " + std::to_string(index) +
                     ", " + laneList(lanes) + ", PTX line " + std::to_string(source.line) + " `" +
                     source.text + "`: " + what});
}

Cta::Cta(Launch& launch) : launch(launch) {
  const Program& program = launch.program;
  const uint32_t* block = launch.request.block;
  const uint32_t threads = block[0] * block[1] * block[2];
  const uint32_t count = (threads + kLanes - 1) / kLanes;
  files_.resize(size_t{count} * program.fileWords);
  predicates_.resize(size_t{count} * (program.predicates + 1));
  warps.resize(count);
  for (uint32_t w = 0; w < count; w++) {
    Warp& warp = warps[w];
    warp.cta = this;
    warp.index = w;
    warp.present = threads - w * kLanes >= kLanes ? kFullMask : (1u << (threads - w * kLanes)) - 1;
    warp.file = files_.data() + size_t{w} * program.fileWords;
    warp.predicates = predicates_.data() + size_t{w} * (program.predicates + 1);
    warp.local.resize(size_t{program.localBytes} * kLanes);
    for (const Constant& constant : program.constants) {
      for (int lane = 0; lane < kLanes; lane++) {
        if (constant.wide)
          warp.lanes<uint64_t>(constant.slot)[lane] = constant.value;
        else
          warp.lanes<uint32_t>(constant.slot)[lane] = static_cast<uint32_t>(constant.value);
      }
    }
  }
}

void Cta::start(uint64_t which) {
  linear = which;
  const uint32_t* grid = launch.request.grid;
  position[0] = static_cast<uint32_t>(which % grid[0]);
  position[1] = static_cast<uint32_t>(which / grid[0] % grid[1]);
  position[2] = static_cast<uint32_t>(which / grid[0] / grid[1]);
  shared.reset(launch.program.sharedBytes + launch.request.dynamicShared);
  clock.reset();
  fenced = false;
  acquired.clear();
  for (Barrier& barrier : barriers_) barrier = Barrier();
  for (Warp& warp : warps) {
    warp.exited = 0;
    warp.state = WarpState::kRunning;
    warp.stack.assign(1, {0, kNowhere, warp.present, false});
    warp.copies.clear();
    std::fill_n(warp.committed, kLanes, 0);
    fillSpecials(warp);
  }
}

void Cta::fillSpecials(Warp& warp) {
  for (const SpecialSlot& special : launch.program.specials) {
    for (uint32_t lane = 0; lane < kLanes; lane++) {
      const uint64_t value = specialValue(special.special, *this, warp, lane);
      if (special.wide)
        warp.lanes<uint64_t>(special.slot)[lane] = value;
      else
        warp.lanes<uint32_t>(special.slot)[lane] = static_cast<uint32_t>(value);
    }
  }
}

void Cta::run() {
  std::vector<uint32_t> runnable;
  while (!launch.failed()) {
    runnable.clear();
    bool finished = true;
    for (const Warp& warp : warps) {
      if (warp.state == WarpState::kRunning) runnable.push_back(warp.index);
      finished &= warp.state == WarpState::kFinished;
    }
    if (finished) return;
    if (runnable.empty()) return reportStuck();
    Warp& warp = warps[runnable[launch.random(static_cast<uint32_t>(runnable.size()))]];
    if (!runWarp(warp, 1 + launch.random(kLongestTurn))) return;
    if (warp.state != WarpState::kRunning) completeBarriers();
  }
}

bool Cta::runWarp(Warp& warp, uint32_t quantum) {
  const MicroOp* code = launch.program.code.data();
  Metrics& metrics = launch.metrics;
  for (; quantum > 0 && warp.state == WarpState::kRunning; quantum--) {
    StackEntry& entry = warp.top();
    const MicroOp& op = code[entry.pc++];
    uint32_t mask = entry.mask;
    if (op.guard >= 0) mask &= op.guardNegated ? ~warp.predicates[op.guard] : warp.predicates[op.guard];
    metrics.instructions[static_cast<int>(op.opClass)]++;
    launch.issued++;
    if (mask != 0) {
      metrics.laneInstructions += static_cast<uint32_t>(__builtin_popcount(mask));
      op.run(warp, op, mask);
      if (launch.failed()) return false;
    }
    warp.settle();
  }
  if (launch.issued > launch.instructionLimit) {
    warp.report(
        code[std::min<size_t>(warp.stack.empty() ? 0 : warp.top().pc, launch.program.code.size() - 1)],
        warp.alive(), "no-end", kErrorLaunchFailed,
        "the launch has issued " + std::to_string(launch.issued) +
            " instructions and does not end; a loop that waits for another CTA never does, for CTAs run one "
            "after another here (SLIM_EMULATOR_LIMIT raises the bound)");
    return false;
  }
  return true;
}

void Cta::arrive(Warp& warp, const MicroOp& op, uint32_t id, uint32_t expected, bool waits,
                 uint32_t predicate, uint32_t mask) {
  const auto broken = [&](const char* kind, const std::string& what) {
    warp.report(op, mask, kind, kErrorLaunchFailed, what);
  };
  if (id >= 16) return broken("barrier-id", "barrier " + std::to_string(id) + " where 0 to 15 exist");
  if (mask != warp.alive()) {
    if (mask == warp.top().mask && warp.deferToOthers()) return;
    return broken("divergent-barrier", "divergent barrier: only these lanes of the warp reach it; " +
                                           laneList(warp.alive() & ~mask) +
                                           " of the same warp took another way and have not exited");
  }
  if (expected % kLanes != 0) {
    return broken("barrier-count",
                  "a barrier for " + std::to_string(expected) + " threads, not a multiple of 32");
  }
  warp.top().deferred = false;
  launch.metrics.barriers++;
  Barrier& barrier = barriers_[id];
  const bool begun = barrier.arrivedThreads != 0;
  if (begun && barrier.expected != expected) {
    return broken("barrier-count", "barrier " + std::to_string(id) + " for " + std::to_string(expected) +
                                       " threads, where another warp waits at it for " +
                                       std::to_string(barrier.expected) + " (0: all)");
  }
  barrier.expected = expected;
  barrier.arrivedThreads += kLanes;
  barrier.threads += static_cast<uint32_t>(__builtin_popcount(mask));
  barrier.count += static_cast<uint32_t>(__builtin_popcount(predicate & mask));
  if (waits) {
    barrier.waiting.push_back(warp.index);
    warp.state = WarpState::kAtBarrier;
    warp.barrier = id;
    warp.barrierOp = &op;
  } else {
    clock.arrive(warp.index, barrier.joined);
    completeBarriers();
  }
}

// Threads that have exited count as arrived at a barrier for all (as from sm_70 on); not at one with a count.
void Cta::completeBarriers() {
  uint32_t live = 0;
  for (const Warp& warp : warps) live += warp.state != WarpState::kFinished ? kLanes : 0;
  for (Barrier& barrier : barriers_) {
    const uint32_t expected = barrier.expected != 0 ? barrier.expected : live;
    if (barrier.arrivedThreads == 0 || barrier.arrivedThreads < expected) continue;
    clock.release(barrier.waiting, barrier.joined);
    for (const uint32_t w : barrier.waiting) {
      Warp& warp = warps[w];
      warp.state = WarpState::kRunning;
      const MicroOp& op = *warp.barrierOp;
      const bool all = barrier.count == barrier.threads, any = barrier.count != 0;
      if (op.flags == 1) std::fill_n(warp.lanes<uint32_t>(op.slots[0]), kLanes, barrier.count);
      if (op.flags == 2) warp.predicates[op.slots[0]] = all ? kFullMask : 0;
      if (op.flags == 3) warp.predicates[op.slots[0]] = any ? kFullMask : 0;
    }
    barrier = Barrier();
  }
}

void Cta::reportStuck() {
  std::string where;
  Warp* first = nullptr;
  for (Warp& warp : warps) {
    if (warp.state != WarpState::kAtBarrier) continue;
    if (first == nullptr) first = &warp;
    where += (where.empty() ? "" : ", ") + std::string("warp ") + std::to_string(warp.index) +
             " at barrier " + std::to_string(warp.barrier) + " (PTX line " +
             std::to_string(launch.program.source[warp.barrierOp->statement].line) + ", " +
             std::to_string(barriers_[warp.barrier].arrivedThreads) + " of " +
             std::to_string(barriers_[warp.barrier].expected) + " threads)";
  }
  uint32_t gone = 0;
  for (const Warp& warp : warps) gone += warp.state == WarpState::kFinished;
  first->report(
      *first->barrierOp, first->alive(), "stuck-barrier", kErrorLaunchFailed,
      "divergent barrier: no warp can go on: " + where + "; " + std::to_string(gone) + " warps have exited");
}

}  // namespace slim::emulator
