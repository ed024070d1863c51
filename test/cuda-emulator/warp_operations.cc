// What lanes of a warp do together: shuffles, votes, matches, reductions, and the barriers.
#include <algorithm>

#include "decoder.h"
#include "lanes.h"

namespace slim::emulator {

namespace {

// Every lane that the member mask names and that has not exited must be here, and who is here must be named.
// False also when the instruction is put off until lanes that are still on their way have run.
bool membersGather(Warp& warp, const MicroOp& op, uint32_t mask, uint32_t memberSlot) {
  const uint32_t* members = warp.lanes<uint32_t>(memberSlot);
  const uint32_t named = members[__builtin_ctz(mask)];
  // Lanes may come in groups, each with a mask of its own.
  uint32_t unnamed = 0, absent = 0;
  forLanes(mask, [&](int lane) {
    unnamed |= (members[lane] >> lane & 1) ? 0 : 1u << lane;
    absent |= members[lane] & warp.alive() & ~mask;
  });
  if (unnamed != 0) {
    warp.report(op, unnamed, "warp-mask", kErrorLaunchFailed,
                "executed by lanes that its member mask " + hexadecimal(named) + " does not name");
    return false;
  }
  if (absent != 0) {
    if (mask == warp.top().mask && warp.deferToOthers()) return false;
    warp.report(
        op, mask, "warp-mask", kErrorLaunchFailed,
        "the member mask " + hexadecimal(named) + " names " + laneList(absent) + ", which are elsewhere");
    return false;
  }
  warp.top().deferred = false;
  return true;
}

enum class Shuffle : uint8_t { kUp, kDown, kButterfly, kIndex };

// slots: result, value, lane or offset, clamp and segment, member mask, predicate.
void runShuffle(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (!membersGather(warp, op, mask, op.slots[4])) return;
  uint32_t* result = warp.lanes<uint32_t>(op.slots[0]);
  const uint32_t* value = warp.lanes<uint32_t>(op.slots[1]);
  uint32_t shuffled[kLanes] = {}, inRange = 0;
  for (uint32_t lane = 0; lane < kLanes; lane++) {
    if (!(mask >> lane & 1)) continue;
    const uint32_t b = warp.lanes<uint32_t>(op.slots[2])[lane] & 31,
                   c = warp.lanes<uint32_t>(op.slots[3])[lane];
    const uint32_t segment = c >> 8 & 31, clamp = c & 31;
    const uint32_t last = (lane & segment) | (clamp & ~segment), first = lane & segment;
    uint32_t from = lane;
    bool inside = false;
    switch (static_cast<Shuffle>(op.mode)) {
      case Shuffle::kUp:
        inside = static_cast<int>(lane - b) >= static_cast<int>(last);
        from = lane - b;
        break;
      case Shuffle::kDown:
        inside = lane + b <= last;
        from = lane + b;
        break;
      case Shuffle::kButterfly:
        inside = (lane ^ b) <= last;
        from = lane ^ b;
        break;
      case Shuffle::kIndex:
        from = first | (b & ~segment);
        inside = from <= last;
        break;
    }
    if (!inside) from = lane;
    if (!(mask >> from & 1)) {
      warp.report(op, 1u << lane, "warp-mask", kErrorLaunchFailed,
                  "reads from lane " + std::to_string(from) + ", which does not take part");
      return;
    }
    shuffled[lane] = value[from];
    inRange |= static_cast<uint32_t>(inside) << lane;
  }
  forLanes(mask, [&](int lane) { result[lane] = shuffled[lane]; });
  warp.predicates[op.slots[5]] = (warp.predicates[op.slots[5]] & ~mask) | (inRange & mask);
}

bool decodeShuffle(Instruction& in) {
  if (!in.has("sync")) return in.fail("only shfl.sync is emulated (sm_70 and later have no other)");
  in.op.mode = static_cast<uint8_t>(in.has("up")     ? Shuffle::kUp
                                    : in.has("down") ? Shuffle::kDown
                                    : in.has("bfly") ? Shuffle::kButterfly
                                                     : Shuffle::kIndex);
  const Operand& result = in.operand(0);
  const bool isPair = result.kind == Operand::Kind::kPair;
  in.op.slots[0] = in.destinationSlot(isPair ? result.elements[0] : result, 32);
  in.op.slots[5] = isPair ? in.predicate(result.elements[1]) : in.builder.sinkPredicate();
  for (size_t i = 1; i < 5; i++) in.op.slots[i] = in.source(i, 32);
  return in.become(runShuffle, OpClass::kShuffle);
}

enum class Vote : uint8_t { kAll, kAny, kUniform, kBallot };

// slots: result (predicate or register), predicate, member mask.
void runVote(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (!membersGather(warp, op, mask, op.slots[2])) return;
  const uint32_t votes = warp.predicates[op.slots[1]] ^ (op.flags & 1 ? kFullMask : 0);
  uint32_t results = 0;
  forLanes(mask, [&](int lane) {
    const uint32_t members = warp.lanes<uint32_t>(op.slots[2])[lane] & mask, held = votes & members;
    if (static_cast<Vote>(op.mode) == Vote::kBallot) {
      warp.lanes<uint32_t>(op.slots[0])[lane] = held;
      return;
    }
    const bool all = held == members, any = held != 0;
    const bool result = static_cast<Vote>(op.mode) == Vote::kAll   ? all
                        : static_cast<Vote>(op.mode) == Vote::kAny ? any
                                                                   : all || !any;
    results |= static_cast<uint32_t>(result) << lane;
  });
  if (static_cast<Vote>(op.mode) == Vote::kBallot) return;
  uint32_t& out = warp.predicates[op.slots[0]];
  out = (out & ~mask) | results;
}

bool decodeVote(Instruction& in) {
  if (!in.has("sync")) return in.fail("only vote.sync is emulated (sm_70 and later have no other)");
  in.op.mode = static_cast<uint8_t>(in.has("ballot") ? Vote::kBallot
                                    : in.has("all")  ? Vote::kAll
                                    : in.has("any")  ? Vote::kAny
                                                     : Vote::kUniform);
  in.op.slots[0] = in.has("ballot") ? in.destination(0, 32) : in.predicate(in.operand(0));
  bool negated;
  in.op.slots[1] = in.sourcePredicate(in.operand(1), negated);
  in.op.flags = negated;
  in.op.slots[2] = in.source(2, 32);
  return in.become(runVote, OpClass::kShuffle);
}

// match.any and match.all: the lanes with the same value. slots: result, value, member mask, predicate.
template <class W>
void runMatch(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (!membersGather(warp, op, mask, op.slots[2])) return;
  const W* value = warp.lanes<W>(op.slots[1]);
  uint32_t same[kLanes] = {}, all = 0;
  forLanes(mask, [&](int lane) {
    const uint32_t members = warp.lanes<uint32_t>(op.slots[2])[lane] & mask;
    forLanes(members,
             [&](int other) { same[lane] |= static_cast<uint32_t>(value[other] == value[lane]) << other; });
    const bool isAll = same[lane] == members;
    all |= static_cast<uint32_t>(isAll) << lane;
    if (op.mode == 1 && !isAll) same[lane] = 0;
  });
  forLanes(mask, [&](int lane) { warp.lanes<uint32_t>(op.slots[0])[lane] = same[lane]; });
  warp.predicates[op.slots[3]] = (warp.predicates[op.slots[3]] & ~mask) | all;
}

bool decodeMatch(Instruction& in) {
  const int bits = bitsOf(in.type());
  in.op.mode = in.has("all");
  const Operand& result = in.operand(0);
  const bool isPair = result.kind == Operand::Kind::kPair;
  in.op.slots[0] = in.destinationSlot(isPair ? result.elements[0] : result, 32);
  in.op.slots[3] = isPair ? in.predicate(result.elements[1]) : in.builder.sinkPredicate();
  in.op.slots[1] = in.source(1, bits);
  in.op.slots[2] = in.source(2, 32);
  return in.become(bits == 64 ? runMatch<uint64_t> : runMatch<uint32_t>, OpClass::kShuffle);
}

// redux.sync. mode: 0 add, 1 min, 2 max, 3 and, 4 or, 5 xor; flags 1: signed.
void runReduce(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (!membersGather(warp, op, mask, op.slots[2])) return;
  uint32_t results[kLanes];
  const uint32_t* value = warp.lanes<uint32_t>(op.slots[1]);
  forLanes(mask, [&](int lane) {
    uint32_t members = warp.lanes<uint32_t>(op.slots[2])[lane] & mask;
    uint32_t sum = value[__builtin_ctz(members)];
    forLanes(members & (members - 1), [&](int other) {
      const uint32_t x = value[other];
      const bool less = op.flags & 1 ? static_cast<int32_t>(x) < static_cast<int32_t>(sum) : x < sum;
      switch (op.mode) {
        case 0:
          sum += x;
          break;
        case 1:
          sum = less ? x : sum;
          break;
        case 2:
          sum = less ? sum : x;
          break;
        case 3:
          sum &= x;
          break;
        case 4:
          sum |= x;
          break;
        default:
          sum ^= x;
      }
    });
    results[lane] = sum;
  });
  forLanes(mask, [&](int lane) { warp.lanes<uint32_t>(op.slots[0])[lane] = results[lane]; });
}

bool decodeReduce(Instruction& in) {
  static constexpr const char* kNames[] = {"add", "min", "max", "and", "or", "xor"};
  for (uint8_t i = 0; i < 6; i++) {
    if (in.has(kNames[i])) in.op.mode = i;
  }
  if (isFloat(in.type())) return in.fail("redux.sync of floats is not emulated");
  in.op.flags = isSigned(in.type());
  return in.withSlots(runReduce, OpClass::kShuffle, 32, {32, 32});
}

void runActiveMask(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) { warp.lanes<uint32_t>(op.slots[0])[lane] = mask; });
}

void runWarpBarrier(Warp& warp, const MicroOp& op, uint32_t mask) {
  membersGather(warp, op, mask, op.slots[0]);
}

// slots: result of bar.red, barrier, threads (flags say whether), predicate. op.flags: 0 none, 1 popc, 2 and,
// 3 or; op.mode: 1 waits, 2 has a count of threads, 4 negated predicate.
void runBarrier(Warp& warp, const MicroOp& op, uint32_t mask) {
  const int lane = __builtin_ctz(mask);
  const uint32_t id = warp.lanes<uint32_t>(op.slots[1])[lane];
  const uint32_t threads = op.mode & 2 ? warp.lanes<uint32_t>(op.slots[2])[lane] : 0;
  const uint32_t predicate = op.flags == 0 ? 0 : warp.predicates[op.slots[3]] ^ (op.mode & 4 ? kFullMask : 0);
  warp.cta->arrive(warp, op, id, threads, op.mode & 1, predicate, mask);
}

bool decodeBarrier(Instruction& in) {
  if (in.has("warp")) {
    in.op.slots[0] = in.source(0, 32);
    return in.become(runWarpBarrier, OpClass::kBarrier);
  }
  if (in.has("cluster")) return in.fail("clusters are not emulated");
  const bool reduces = in.has("red");
  size_t next = reduces ? 1 : 0;
  in.op.mode = in.has("arrive") ? 0 : 1;
  if (reduces) {
    in.op.flags = in.has("popc") ? 1 : in.has("and") ? 2 : 3;
    in.op.slots[0] = in.op.flags == 1 ? in.destination(0, 32) : in.predicate(in.operand(0));
  }
  in.op.slots[1] = in.source(next++, 32);
  const size_t left = in.operandCount() - next - (reduces ? 1 : 0);
  if (left == 1) {
    in.op.slots[2] = in.source(next++, 32);
    in.op.mode |= 2;
  }
  if (reduces) {
    bool negated;
    in.op.slots[3] = in.sourcePredicate(in.operand(next), negated);
    if (negated) in.op.mode |= 4;
  }
  return in.become(runBarrier, OpClass::kBarrier);
}

}  // namespace

bool decodeWarpWide(Instruction& in) {
  const std::string& name = in.name();
  if (name == "shfl") return decodeShuffle(in);
  if (name == "vote") return decodeVote(in);
  if (name == "match") return decodeMatch(in);
  if (name == "redux") return decodeReduce(in);
  if (name == "bar" || name == "barrier") return decodeBarrier(in);
  if (name == "activemask") {
    in.op.slots[0] = in.destination(0, 32);
    return in.become(runActiveMask, OpClass::kShuffle);
  }
  return false;
}

}  // namespace slim::emulator
