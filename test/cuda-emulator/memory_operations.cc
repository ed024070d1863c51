// Loads and stores.
#include <cstring>

#include "decoder.h"
#include "lanes.h"
#include "memory_access.h"

namespace slim::emulator {

namespace {

// MicroOp::flags
constexpr uint8_t kSigned = 1, kWideRegister = 2, kStrong = 4, kRelease = 8, kHalfRegister = 16;

constexpr uint32_t kAddressSlot = 8;

void putElement(Warp& warp, const MicroOp& op, uint32_t slot, int lane, const uint8_t* from) {
  uint64_t value = 0;
  std::memcpy(&value, from, op.bytes);
  if (op.flags & kSigned) {
    const int shift = 64 - 8 * op.bytes;
    value = static_cast<uint64_t>(static_cast<int64_t>(value << shift) >> shift);
  }
  if (op.flags & kHalfRegister) value &= 0xffff;
  if (op.flags & kWideRegister)
    warp.lanes<uint64_t>(slot)[lane] = value;
  else
    warp.lanes<uint32_t>(slot)[lane] = static_cast<uint32_t>(value);
}

// A strong access (volatile, relaxed and above) takes and gives the order that atomics on its word do. A
// store may meet others of its kind, as an atomic may; a load is checked as any other.
void runLoad(Warp& warp, const MicroOp& op, uint32_t mask) {
  uint64_t addresses[kLanes];
  uint8_t* pointers[kLanes];
  gatherAddresses(warp, op, op.slots[kAddressSlot], addresses);
  if (op.flags & kStrong) synchronizeCtas(warp, op, mask, addresses);
  if (!accessAnywhere(warp, op, mask, addresses, op.bytes * op.count, Access::kRead, pointers)) return;
  for (uint32_t i = 0; i < op.count; i++) {
    forLanes(mask, [&](int lane) { putElement(warp, op, op.slots[i], lane, pointers[lane] + i * op.bytes); });
  }
}

void runStore(Warp& warp, const MicroOp& op, uint32_t mask) {
  uint64_t addresses[kLanes];
  uint8_t* pointers[kLanes];
  gatherAddresses(warp, op, op.slots[kAddressSlot], addresses);
  if (op.flags & kRelease) warp.cta->fenced = true;
  if (op.flags & kStrong) synchronizeCtas(warp, op, mask, addresses);
  const Access access = op.flags & kStrong ? Access::kAtomic : Access::kWrite;
  if (access == Access::kAtomic) {
    // An atomic access also reads; what a store overwrites need not have been written.
    forLanes(mask, [&](int lane) {
      uint64_t address = addresses[lane];
      const Space space = op.space == Space::kGeneric ? settleGeneric(address) : op.space;
      if (space != Space::kGlobal) return;
      Allocation* allocation = warp.launch().memory.findRange(address, op.bytes * op.count);
      if (allocation != nullptr)
        allocation->markRangeWritten(address - allocation->address, op.bytes * op.count);
    });
  }
  const bool strongGlobal = access == Access::kAtomic && op.space != Space::kShared;
  if (!accessAnywhere(warp, op, mask, addresses, op.bytes * op.count, strongGlobal ? access : Access::kWrite,
                      pointers))
    return;
  for (uint32_t i = 0; i < op.count; i++) {
    forLanes(mask, [&](int lane) {
      uint8_t* to = pointers[lane] + i * op.bytes;
      if (op.flags & kWideRegister)
        std::memcpy(to, warp.lanes<uint64_t>(op.slots[i]) + lane, op.bytes);
      else
        std::memcpy(to, warp.lanes<uint32_t>(op.slots[i]) + lane, op.bytes);
    });
  }
}

bool decodeAccess(Instruction& in, bool load) {
  const Type type = in.type();
  in.op.space = spaceOf(in);
  in.op.bytes = static_cast<uint8_t>(bitsOf(type) / 8);
  const Operand& value = in.operand(load ? 0 : 1);
  const bool isVector = value.kind == Operand::Kind::kVector;
  const std::vector<Operand> elements = isVector ? value.elements : std::vector<Operand>{value};
  in.op.count = static_cast<uint8_t>(elements.size());
  if (in.op.bytes == 0) return in.fail("a type that the emulator does not know");
  if (elements.size() > kAddressSlot || in.op.bytes * in.op.count > 16)
    return in.fail("an access of more than 16 bytes a lane");
  // The registers of a vector are of one width; an element that is not a register takes the type's.
  bool wide = in.op.bytes == 8;
  for (const Operand& element : elements) {
    if (element.kind != Operand::Kind::kRegister) continue;
    wide = in.isWide(element);
    if (in.declaredBits(element) == 16) in.op.flags |= kHalfRegister;
  }
  for (size_t i = 0; i < elements.size(); i++) {
    const int bits = wide ? 64 : 32;
    in.op.slots[i] = load ? in.destinationSlot(elements[i], bits) : in.sourceSlot(elements[i], bits);
  }
  if (wide) in.op.flags |= kWideRegister;
  if (load && isSigned(type) && in.op.bytes < 4 + 4 * wide) in.op.flags |= kSigned;
  if (in.has("volatile") || in.has("relaxed") || in.has("acquire") || in.has("release"))
    in.op.flags |= kStrong;
  if (in.has("release")) in.op.flags |= kRelease;
  in.address(in.operand(load ? 1 : 0), in.op.slots[kAddressSlot]);
  OpClass opClass = OpClass::kGlobal;
  if (in.op.space == Space::kShared) opClass = OpClass::kShared;
  if (in.op.space == Space::kLocal) opClass = OpClass::kLocal;
  if (in.has("param")) opClass = OpClass::kParameter;
  return in.become(load ? runLoad : runStore, opClass);
}

}  // namespace

bool decodeMemory(Instruction& in) {
  const std::string& name = in.name();
  if (name == "ld" || name == "ldu") return decodeAccess(in, true);
  if (name == "st") return decodeAccess(in, false);
  return false;
}

}  // namespace slim::emulator
