#include "memory_access.h"

#include "decoder.h"
#include "lanes.h"

namespace slim::emulator {

namespace {

const char* nameOf(Access access) {
  return access == Access::kRead ? "read" : access == Access::kWrite ? "write" : "atomic access";
}

bool misaligned(Warp& warp, const MicroOp& op, int lane, const char* space, uint64_t address, uint32_t bytes,
                Access access) {
  if (address % bytes == 0) return false;
  warp.report(op, 1u << lane, "misaligned", kErrorMisalignedAddress,
              "misaligned " + std::string(nameOf(access)) + " of " + std::to_string(bytes) + " bytes of " +
                  space + " memory at " + hexadecimal(address));
  return true;
}

bool accessGlobal(Warp& warp, const MicroOp& op, uint32_t mask, const uint64_t* addresses, uint32_t bytes,
                  Access access, uint8_t** pointers) {
  Launch& launch = warp.launch();
  Allocation* allocation = nullptr;
  bool sound = true;
  forLanes(mask, [&](int lane) {
    if (!sound) return;
    sound = false;
    const uint64_t address = addresses[lane];
    const auto what = [&] {
      return std::string(nameOf(access)) + " of " + std::to_string(bytes) + " bytes of global memory at " +
             hexadecimal(address);
    };
    if (allocation == nullptr || address - allocation->address >= allocation->bytes)
      allocation = launch.memory.find(address);
    if (allocation == nullptr || bytes > allocation->bytes - (address - allocation->address)) {
      warp.report(op, 1u << lane, "global-bounds", kErrorIllegalAddress,
                  "out of bounds " + what() + ", which is " + launch.memory.describe(address));
      return;
    }
    if (misaligned(warp, op, lane, "global", address, bytes, access)) return;
    const uint64_t offset = address - allocation->address;
    if (access != Access::kWrite && !allocation->written(offset, bytes)) {
      warp.report(op, 1u << lane, "global-unwritten", kErrorLaunchFailed,
                  what() + " that nothing has written: byte " + std::to_string(offset) +
                      " of an allocation of " + std::to_string(allocation->bytes) + " bytes");
      return;
    }
    const std::string race = launch.touchGlobal(*warp.cta, *allocation, offset, bytes, access);
    if (!race.empty()) {
      warp.report(op, 1u << lane, "global-race", kErrorLaunchFailed,
                  "race between CTAs: " + what() + " (byte " + std::to_string(offset) +
                      " of its allocation); " + race + ", and nothing orders the two");
      return;
    }
    if (access != Access::kRead) allocation->markWritten(offset, bytes);
    pointers[lane] = allocation->data + offset;
    sound = true;
  });
  if (sound) launch.metrics.countGlobal(addresses, mask, bytes, access != Access::kRead);
  return sound;
}

bool accessShared(Warp& warp, const MicroOp& op, uint32_t mask, const uint64_t* addresses, uint32_t bytes,
                  Access access, uint8_t** pointers) {
  Cta& cta = *warp.cta;
  SharedMemory& shared = cta.shared;
  bool sound = true;
  forLanes(mask, [&](int lane) {
    if (!sound) return;
    sound = false;
    const uint64_t address = addresses[lane];
    const auto what = [&] {
      return std::string(nameOf(access)) + " of " + std::to_string(bytes) + " bytes of shared memory at " +
             hexadecimal(address);
    };
    const auto found = [&](const char* kind, int code, const std::string& text) {
      warp.report(op, 1u << lane, kind, code, text);
    };
    if (address > shared.bytes() || bytes > shared.bytes() - address) {
      return found("shared-bounds", kErrorIllegalAddress,
                   "out of bounds " + what() + "; the CTA has " + std::to_string(shared.bytes()) +
                       " bytes (" + std::to_string(warp.launch().program.sharedBytes) + " static and " +
                       std::to_string(warp.launch().request.dynamicShared) + " dynamic)");
    }
    if (misaligned(warp, op, lane, "shared", address, bytes, access)) return;
    const auto offset = static_cast<uint32_t>(address);
    if (shared.pending(offset, bytes)) {
      return found(
          "async-copy", kErrorLaunchFailed,
          what() + " that a cp.async is still filling: no cp.async.wait_group has completed its group");
    }
    if (access != Access::kWrite && !shared.written(offset, bytes)) {
      return found("shared-unwritten", kErrorLaunchFailed, what() + " that nothing has written");
    }
    const std::string race = shared.touch(offset, bytes, warp.index, access, cta.clock);
    if (!race.empty()) {
      return found("shared-race", kErrorLaunchFailed,
                   "race between warps: " + what() + "; " + race + " and no barrier lies between");
    }
    if (access != Access::kRead) shared.markWritten(offset, bytes);
    pointers[lane] = shared.data() + offset;
    sound = true;
  });
  if (sound) warp.launch().metrics.countShared(addresses, mask, bytes);
  return sound;
}

bool accessLocal(Warp& warp, const MicroOp& op, uint32_t mask, const uint64_t* addresses, uint32_t bytes,
                 Access access, uint8_t** pointers) {
  const size_t stride = warp.local.size() / kLanes;
  bool sound = true;
  forLanes(mask, [&](int lane) {
    if (!sound) return;
    if (addresses[lane] > stride || bytes > stride - addresses[lane]) {
      warp.report(op, 1u << lane, "local-bounds", kErrorIllegalAddress,
                  "out of bounds " + std::string(nameOf(access)) + " of " + std::to_string(bytes) +
                      " bytes of local memory at " + hexadecimal(addresses[lane]) + "; a thread has " +
                      std::to_string(stride) + " bytes");
      sound = false;
    } else if (misaligned(warp, op, lane, "local", addresses[lane], bytes, access)) {
      sound = false;
    } else {
      pointers[lane] = warp.local.data() + lane * stride + addresses[lane];
    }
  });
  if (sound && op.space != Space::kParam) warp.launch().metrics.localRequests++;
  return sound;
}

bool accessParam(Warp& warp, const MicroOp& op, uint32_t mask, const uint64_t* addresses, uint32_t bytes,
                 Access access, uint8_t** pointers) {
  const std::vector<uint8_t>& parameters = warp.launch().request.parameters;
  bool sound = true;
  forLanes(mask, [&](int lane) {
    if (!sound) return;
    if (access != Access::kRead || addresses[lane] > parameters.size() ||
        bytes > parameters.size() - addresses[lane]) {
      warp.report(op, 1u << lane, "param-bounds", kErrorIllegalAddress,
                  std::string(nameOf(access)) + " of " + std::to_string(bytes) +
                      " bytes of the parameters at " + hexadecimal(addresses[lane]) +
                      ", of which there are " + std::to_string(parameters.size()));
      sound = false;
      return;
    }
    pointers[lane] = const_cast<uint8_t*>(parameters.data()) + addresses[lane];
  });
  return sound;
}

}  // namespace

void gatherAddresses(Warp& warp, const MicroOp& op, uint32_t slot, uint64_t* addresses) {
  for (int lane = 0; lane < kLanes; lane++) {
    addresses[lane] = (op.wideAddress ? warp.lanes<uint64_t>(slot)[lane] : warp.lanes<uint32_t>(slot)[lane]) +
                      static_cast<uint64_t>(op.offset);
    if (!op.wideAddress) addresses[lane] &= 0xffffffff;
  }
}

Space settleGeneric(uint64_t& address) {
  const auto inside = [&](uint64_t window) {
    if (address - window >= kWindowBytes) return false;
    address -= window;
    return true;
  };
  if (inside(kSharedWindow)) return Space::kShared;
  if (inside(kLocalWindow)) return Space::kLocal;
  if (inside(kParamWindow)) return Space::kParam;
  return Space::kGlobal;
}

bool accessMemory(Warp& warp, const MicroOp& op, uint32_t mask, Space space, const uint64_t* addresses,
                  uint32_t bytes, Access access, uint8_t** pointers) {
  switch (space) {
    case Space::kShared:
      return accessShared(warp, op, mask, addresses, bytes, access, pointers);
    case Space::kLocal:
      return accessLocal(warp, op, mask, addresses, bytes, access, pointers);
    case Space::kParam:
      return accessParam(warp, op, mask, addresses, bytes, access, pointers);
    default:
      return accessGlobal(warp, op, mask, addresses, bytes, access, pointers);
  }
}

bool accessAnywhere(Warp& warp, const MicroOp& op, uint32_t mask, uint64_t* addresses, uint32_t bytes,
                    Access access, uint8_t** pointers) {
  if (op.space != Space::kGeneric)
    return accessMemory(warp, op, mask, op.space, addresses, bytes, access, pointers);
  uint32_t masks[6] = {};
  forLanes(mask, [&](int lane) { masks[static_cast<int>(settleGeneric(addresses[lane]))] |= 1u << lane; });
  for (int space = 0; space < 6; space++) {
    if (masks[space] != 0 && !accessMemory(warp, op, masks[space], static_cast<Space>(space), addresses,
                                           bytes, access, pointers)) {
      return false;
    }
  }
  return true;
}

void synchronizeCtas(Warp& warp, const MicroOp& op, uint32_t mask, const uint64_t* addresses) {
  forLanes(mask, [&](int lane) {
    uint64_t address = addresses[lane];
    const Space space = op.space == Space::kGeneric ? settleGeneric(address) : op.space;
    if (space == Space::kGlobal) warp.launch().synchronizeOn(*warp.cta, address);
  });
}

Space spaceOf(const Instruction& in) {
  if (in.has("global")) return Space::kGlobal;
  if (in.has("shared") || in.has("shared::cta")) return Space::kShared;
  if (in.has("local")) return Space::kLocal;
  if (in.has("param") || in.has("param::entry") || in.has("param::func")) return Space::kParam;
  if (in.has("const")) return Space::kConst;
  return Space::kGeneric;
}

}  // namespace slim::emulator
