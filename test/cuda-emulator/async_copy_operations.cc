// cp.async and its groups. The source is read when the copy is issued; shared memory gets the bytes only at
// the wait that completes the copy's group, and until then touching them is a defect.
#include <algorithm>
#include <cstring>

#include "decoder.h"
#include "lanes.h"
#include "memory_access.h"

namespace slim::emulator {

namespace {

constexpr uint32_t kAllGroups = 0xffffffffu;

// slots: destination, source, bytes of the source (the rest is zeros); flags 1: has such a count; 2: a
// predicate that makes the copy zeros.
void runCopy(Warp& warp, const MicroOp& op, uint32_t mask) {
  Cta& cta = *warp.cta;
  uint64_t sources[kLanes], destinations[kLanes];
  uint8_t* pointers[kLanes];
  gatherAddresses(warp, op, op.slots[1], sources);
  MicroOp destination = op;
  destination.offset = static_cast<int64_t>(op.slots[4]) << 32 >> 32;
  destination.wideAddress = op.mode & 1;
  gatherAddresses(warp, destination, op.slots[0], destinations);
  uint32_t sizes[kLanes];
  for (int lane = 0; lane < kLanes; lane++) {
    sizes[lane] =
        op.flags & 1 ? std::min<uint32_t>(warp.lanes<uint32_t>(op.slots[2])[lane], op.bytes) : op.bytes;
    if ((op.flags & 2) && (warp.predicates[op.slots[3]] >> lane & 1)) sizes[lane] = 0;
  }
  // Lanes that copy all, a part, or nothing of the source are separate accesses to global memory.
  for (uint32_t size = op.bytes; size > 0; size--) {
    uint32_t sameSize = 0;
    forLanes(mask, [&](int lane) { sameSize |= static_cast<uint32_t>(sizes[lane] == size) << lane; });
    if (sameSize == 0) continue;
    if (size != 1 && (size & (size - 1)) != 0) {
      // An odd part is read by bytes.
      for (uint32_t i = 0; i < size; i++) {
        uint64_t bytes[kLanes];
        for (int lane = 0; lane < kLanes; lane++) bytes[lane] = sources[lane] + i;
        if (!accessMemory(warp, op, sameSize, Space::kGlobal, bytes, 1, Access::kRead, pointers)) return;
      }
      forLanes(sameSize, [&](int lane) { pointers[lane] -= size - 1; });
    } else if (!accessAnywhere(warp, op, sameSize, sources, size, Access::kRead, pointers)) {
      return;
    }
  }
  uint8_t* targets[kLanes];
  if (!accessMemory(warp, op, mask, Space::kShared, destinations, op.bytes, Access::kWrite, targets)) return;
  forLanes(mask, [&](int lane) {
    AsyncCopy copy{static_cast<uint32_t>(destinations[lane]),
                   static_cast<uint32_t>(lane),
                   warp.committed[lane],
                   op.bytes,
                   {}};
    if (sizes[lane] != 0) std::memcpy(copy.data, pointers[lane], sizes[lane]);
    cta.shared.addPending(copy.sharedOffset, copy.bytes, 1);
    warp.copies.push_back(copy);
  });
}

void runCommit(Warp& warp, const MicroOp&, uint32_t mask) {
  forLanes(mask, [&](int lane) { warp.committed[lane]++; });
}

// slots[0]: groups that may stay pending, or all complete (wait_all, which does not ask for a commit).
void runWait(Warp& warp, const MicroOp& op, uint32_t mask) {
  Cta& cta = *warp.cta;
  const bool all = op.slots[0] == kAllGroups;
  const auto completes = [&](const AsyncCopy& copy) {
    return (mask >> copy.lane & 1) && (all || copy.group + op.slots[0] < warp.committed[copy.lane]);
  };
  for (const AsyncCopy& copy : warp.copies) {
    if (!completes(copy)) continue;
    std::memcpy(cta.shared.data() + copy.sharedOffset, copy.data, copy.bytes);
    cta.shared.addPending(copy.sharedOffset, copy.bytes, -1);
    // The bytes are written by this warp now: only a barrier after the wait shows them to others.
    const std::string race =
        cta.shared.touch(copy.sharedOffset, copy.bytes, warp.index, Access::kWrite, cta.clock);
    if (!race.empty()) {
      warp.report(op, 1u << copy.lane, "shared-race", kErrorLaunchFailed,
                  "race between warps: cp.async fills " + std::to_string(copy.bytes) +
                      " bytes of shared memory at " + hexadecimal(copy.sharedOffset) + "; " + race +
                      " and no barrier lies between");
      return;
    }
  }
  std::erase_if(warp.copies, completes);
}

bool decodeCopy(Instruction& in) {
  uint64_t bytes;
  if (!in.immediate(2, bytes) || (bytes != 4 && bytes != 8 && bytes != 16))
    return in.fail("cp.async of 4, 8 or 16 bytes expected");
  in.address(in.operand(0), in.op.slots[0]);
  in.op.mode = in.op.wideAddress;
  in.op.slots[4] = static_cast<uint32_t>(in.op.offset);
  in.address(in.operand(1), in.op.slots[1]);
  in.op.space = Space::kGlobal;
  in.op.bytes = static_cast<uint8_t>(bytes);
  if (in.operandCount() > 3 && in.operand(3).kind == Operand::Kind::kRegister &&
      in.builder.isPredicate(in.operand(3).index)) {
    in.op.flags = 2;
    in.op.slots[3] = in.predicate(in.operand(3));
  } else if (in.operandCount() > 3 && !(in.has("L2::cache_hint") && in.operandCount() == 4)) {
    in.op.flags = 1;
    in.op.slots[2] = in.source(3, 32);
  }
  return in.become(runCopy, OpClass::kAsyncCopy);
}

}  // namespace

bool decodeAsyncCopy(Instruction& in) {
  if (in.name() != "cp" || !in.has("async")) return false;
  if (in.has("bulk") || in.has("mbarrier")) return in.fail("bulk copies and mbarriers are not emulated");
  if (in.has("commit_group")) return in.become(runCommit, OpClass::kAsyncCopy);
  if (in.has("wait_all")) {
    in.op.slots[0] = kAllGroups;
    return in.become(runWait, OpClass::kAsyncCopy);
  }
  if (in.has("wait_group")) {
    uint64_t groups;
    if (!in.immediate(0, groups)) return in.fail("a number of groups expected");
    in.op.slots[0] = static_cast<uint32_t>(groups);
    return in.become(runWait, OpClass::kAsyncCopy);
  }
  return decodeCopy(in);
}

}  // namespace slim::emulator
