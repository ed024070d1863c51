// mov with its packing and unpacking of vectors, address conversions, and hints that do nothing here.
#include "decoder.h"
#include "lanes.h"

namespace slim::emulator {

namespace {

struct Copy {
  template <class T>
  T operator()(T a) const {
    return a;
  }
};

// {a, b, …} to one register, the first lowest. op.bytes: of an element; op.count elements.
template <class W>
void runPack(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    W value = 0;
    for (uint32_t i = 0; i < op.count; i++)
      value |= W{warp.lanes<uint32_t>(op.slots[1 + i])[lane]} << (8 * op.bytes * i);
    warp.lanes<W>(op.slots[0])[lane] = value;
  });
}

template <class W>
void runUnpack(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t elementMask = op.bytes == 4 ? 0xffffffffu : (1u << (8 * op.bytes)) - 1;
  forLanes(mask, [&](int lane) {
    const W value = warp.lanes<W>(op.slots[15])[lane];
    for (uint32_t i = 0; i < op.count; i++) {
      warp.lanes<uint32_t>(op.slots[i])[lane] =
          static_cast<uint32_t>(value >> (8 * op.bytes * i)) & elementMask;
    }
  });
}

bool decodeVectorMove(Instruction& in, int bits) {
  const bool packs = in.operand(1).kind == Operand::Kind::kVector;
  const std::vector<Operand>& elements = in.operand(packs ? 1 : 0).elements;
  in.op.count = static_cast<uint8_t>(elements.size());
  in.op.bytes = static_cast<uint8_t>(bits / 8 / static_cast<int>(elements.size()));
  if (elements.size() < 2 || elements.size() > 4 || in.op.bytes > 4)
    return in.fail("this form of mov is not emulated");
  for (size_t i = 0; i < elements.size(); i++) {
    if (packs)
      in.op.slots[1 + i] = in.sourceSlot(elements[i], 8 * in.op.bytes);
    else
      in.op.slots[i] = in.destinationSlot(elements[i], 8 * in.op.bytes);
  }
  if (packs) {
    in.op.slots[0] = in.destination(0, bits);
    return in.become(bits == 64 ? runPack<uint64_t> : runPack<uint32_t>, OpClass::kMove);
  }
  in.op.slots[15] = in.source(1, bits);
  return in.become(bits == 64 ? runUnpack<uint64_t> : runUnpack<uint32_t>, OpClass::kMove);
}

// Clocks count the instructions that the launch has issued: the emulator has no time.
template <class W>
void runClock(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) { warp.lanes<W>(op.slots[0])[lane] = static_cast<W>(warp.launch().issued); });
}

bool isClock(const Operand& operand) {
  return operand.kind == Operand::Kind::kName &&
         (operand.name == "%clock" || operand.name == "%clock64" || operand.name == "%clock_hi" ||
          operand.name == "%globaltimer");
}

struct AddWindow {
  uint64_t operator()(const MicroOp& op, uint64_t a) const { return a + static_cast<uint64_t>(op.offset); }
};

bool decodeAddressConversion(Instruction& in) {
  uint64_t window = 0;
  if (in.has("shared") || in.has("shared::cta")) window = kSharedWindow;
  if (in.has("local")) window = kLocalWindow;
  if (in.has("param")) window = kParamWindow;
  in.op.offset = static_cast<int64_t>(in.has("to") ? 0 - window : window);
  return in.withSlots(laneOperation<AddWindow, uint64_t, uint64_t>, OpClass::kMove, 64, {64});
}

void runIsSpace(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    const uint64_t address = warp.lanes<uint64_t>(op.slots[1])[lane];
    Space space = Space::kGlobal;
    if (address - kSharedWindow < kWindowBytes) space = Space::kShared;
    if (address - kLocalWindow < kWindowBytes) space = Space::kLocal;
    if (address - kParamWindow < kWindowBytes) space = Space::kParam;
    uint32_t& out = warp.predicates[op.slots[0]];
    out = (out & ~(1u << lane)) | static_cast<uint32_t>(space == op.space) << lane;
  });
}

bool decodeIsSpace(Instruction& in) {
  in.op.space = in.has("shared") || in.has("shared::cta") ? Space::kShared
                : in.has("local")                         ? Space::kLocal
                : in.has("param")                         ? Space::kParam
                                                          : Space::kGlobal;
  if (in.has("const")) return in.fail("isspacep.const is not emulated");
  in.op.slots[0] = in.predicate(in.operand(0));
  in.op.slots[1] = in.source(1, 64);
  return in.become(runIsSpace, OpClass::kPredicate);
}

void runNothing(Warp&, const MicroOp&, uint32_t) {}

}  // namespace

bool decodeMove(Instruction& in) {
  const std::string& name = in.name();
  if (name == "cvta") return decodeAddressConversion(in);
  if (name == "isspacep") return decodeIsSpace(in);
  if (name == "createpolicy") {
    in.ignoreParts();
    in.op.slots[0] = in.destination(0, 64);
    in.op.slots[1] = in.constant(0, 64);
    return in.become(laneOperation<Copy, uint64_t, uint64_t>, OpClass::kMove);
  }
  const bool hint = name == "prefetch" || name == "prefetchu" || name == "applypriority" ||
                    name == "nanosleep" || name == "griddepcontrol" || name == "setmaxnreg";
  if (hint) {
    in.ignoreParts();
    return in.become(runNothing, OpClass::kControl);
  }
  if (name != "mov") return false;
  const int bits = bitsOf(in.type());
  if (in.operand(0).kind == Operand::Kind::kVector || in.operand(1).kind == Operand::Kind::kVector) {
    return decodeVectorMove(in, bits);
  }
  if (isClock(in.operand(1))) {
    in.op.slots[0] = in.destination(0, bits);
    return in.become(bits == 64 ? runClock<uint64_t> : runClock<uint32_t>, OpClass::kMove);
  }
  return in.withSlots(
      bits == 64 ? laneOperation<Copy, uint64_t, uint64_t> : laneOperation<Copy, uint32_t, uint32_t>,
      OpClass::kMove, bits, {bits});
}

}  // namespace slim::emulator
