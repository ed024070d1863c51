// setp, set, selp, slct.
#include <algorithm>
#include <cmath>

#include "decoder.h"
#include "lanes.h"
#include "number_formats.h"

namespace slim::emulator {

namespace {

enum class Compare : uint8_t { kEq, kNe, kLt, kLe, kGt, kGe, kNum, kNan };
constexpr uint8_t kUnordered = 16;  // with mode: a NaN makes the comparison true

struct CompareName {
  const char* name;
  Compare compare;
  bool unordered;
};

constexpr CompareName kCompares[] = {
    {"eq", Compare::kEq, false}, {"ne", Compare::kNe, false},   {"lt", Compare::kLt, false},
    {"le", Compare::kLe, false}, {"gt", Compare::kGt, false},   {"ge", Compare::kGe, false},
    {"lo", Compare::kLt, false}, {"ls", Compare::kLe, false},   {"hi", Compare::kGt, false},
    {"hs", Compare::kGe, false}, {"equ", Compare::kEq, true},   {"neu", Compare::kNe, true},
    {"ltu", Compare::kLt, true}, {"leu", Compare::kLe, true},   {"gtu", Compare::kGt, true},
    {"geu", Compare::kGe, true}, {"num", Compare::kNum, false}, {"nan", Compare::kNan, true},
};

// MicroOp::flags of setp and set: how the result is combined with a further predicate, and .ftz.
constexpr uint8_t kAnd = 1, kOr = 2, kXor = 3, kCombineMask = 3, kNegateThird = 4, kFlush = 8;

template <class T>
T compared(const MicroOp& op, T x) {
  if constexpr (std::is_same_v<T, float>) {
    if ((op.flags & kFlush) && std::fpclassify(x) == FP_SUBNORMAL) return std::copysign(0.0f, x);
  }
  return x;
}
float compared(const MicroOp&, Half x) { return toFloat(x); }
float compared(const MicroOp&, Brain x) { return toFloat(x); }

template <class T>
bool compareValues(const MicroOp& op, T a, T b) {
  if constexpr (std::is_floating_point_v<T>) {
    if (std::isnan(a) || std::isnan(b)) return op.mode & kUnordered;
  }
  switch (static_cast<Compare>(op.mode & 15)) {
    case Compare::kEq:
      return a == b;
    case Compare::kNe:
      return a != b;
    case Compare::kLt:
      return a < b;
    case Compare::kLe:
      return a <= b;
    case Compare::kGt:
      return a > b;
    case Compare::kGe:
      return a >= b;
    case Compare::kNum:
      return true;
    default:
      return false;
  }
}

template <class T>
uint32_t compareLanes(Warp& warp, const MicroOp& op, uint32_t slotA, uint32_t slotB, int shift = 0) {
  const Word<T>*a = warp.lanes<Word<T>>(slotA), *b = warp.lanes<Word<T>>(slotB);
  uint32_t result = 0;
  for (int lane = 0; lane < kLanes; lane++) {
    const auto x = compared(op, unpack<T>(static_cast<Word<T>>(a[lane] >> shift)));
    const auto y = compared(op, unpack<T>(static_cast<Word<T>>(b[lane] >> shift)));
    result |= static_cast<uint32_t>(compareValues(op, x, y)) << lane;
  }
  return result;
}

uint32_t combine(const Warp& warp, const MicroOp& op, uint32_t slot, uint32_t compared) {
  const uint32_t third = warp.predicates[slot] ^ (op.flags & kNegateThird ? kFullMask : 0);
  switch (op.flags & kCombineMask) {
    case kAnd:
      return compared & third;
    case kOr:
      return compared | third;
    case kXor:
      return compared ^ third;
    default:
      return compared;
  }
}

void setPredicate(Warp& warp, uint32_t slot, uint32_t mask, uint32_t value) {
  warp.predicates[slot] = (warp.predicates[slot] & ~mask) | (value & mask);
}

// slots: p, q (the complement), a, b, third predicate.
template <class T>
void runSetPredicate(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t result = compareLanes<T>(warp, op, op.slots[2], op.slots[3]);
  const uint32_t p = combine(warp, op, op.slots[4], result), q = combine(warp, op, op.slots[4], ~result);
  setPredicate(warp, op.slots[1], mask, q);
  setPredicate(warp, op.slots[0], mask, p);
}

// Both halves of f16x2 or bf16x2, each to a predicate of its own.
template <class H>
void runSetPredicatePair(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t low = compareLanes<H>(warp, op, op.slots[2], op.slots[3]);
  const uint32_t high = compareLanes<H>(warp, op, op.slots[2], op.slots[3], 16);
  const uint32_t p = combine(warp, op, op.slots[4], low), q = combine(warp, op, op.slots[4], high);
  setPredicate(warp, op.slots[1], mask, q);
  setPredicate(warp, op.slots[0], mask, p);
}

// set: the truth as a number. op.bytes: 0 all ones, else a pattern in op.offset.
template <class T>
void runSet(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t result = combine(warp, op, op.slots[4], compareLanes<T>(warp, op, op.slots[2], op.slots[3]));
  forLanes(mask, [&](int lane) {
    warp.lanes<uint32_t>(op.slots[0])[lane] = result >> lane & 1 ? static_cast<uint32_t>(op.offset) : 0;
  });
}

template <class H>
void runSetPair(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t low = combine(warp, op, op.slots[4], compareLanes<H>(warp, op, op.slots[2], op.slots[3]));
  const uint32_t high =
      combine(warp, op, op.slots[4], compareLanes<H>(warp, op, op.slots[2], op.slots[3], 16));
  const auto one = static_cast<uint32_t>(op.offset);
  forLanes(mask, [&](int lane) {
    warp.lanes<uint32_t>(op.slots[0])[lane] =
        (low >> lane & 1 ? one & 0xffff : 0) | (high >> lane & 1 ? one & 0xffff0000u : 0);
  });
}

template <template <class> class Run>
Handler comparing(Type type) {
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return Run<uint16_t>::handler;
    case Type::kS16:
      return Run<int16_t>::handler;
    case Type::kB32:
    case Type::kU32:
      return Run<uint32_t>::handler;
    case Type::kS32:
      return Run<int32_t>::handler;
    case Type::kB64:
    case Type::kU64:
      return Run<uint64_t>::handler;
    case Type::kS64:
      return Run<int64_t>::handler;
    case Type::kF16:
      return Run<Half>::handler;
    case Type::kBF16:
      return Run<Brain>::handler;
    case Type::kF32:
      return Run<float>::handler;
    case Type::kF64:
      return Run<double>::handler;
    default:
      return nullptr;
  }
}
template <class T>
struct SetPredicate {
  static constexpr Handler handler = runSetPredicate<T>;
};
template <class T>
struct Set {
  static constexpr Handler handler = runSet<T>;
};

// The comparison, the sources from operand `first` on, and the combining predicate.
bool decodeCompared(Instruction& in, Type source, size_t first) {
  const CompareName* compare = std::find_if(std::begin(kCompares), std::end(kCompares),
                                            [&](const CompareName& known) { return in.has(known.name); });
  if (compare == std::end(kCompares)) return in.fail("a comparison that the emulator does not know");
  in.op.mode =
      static_cast<uint8_t>(static_cast<uint8_t>(compare->compare) | (compare->unordered ? kUnordered : 0));
  const int bits = bitsOf(source);
  in.op.slots[2] = in.source(first, bits);
  in.op.slots[3] = in.source(first + 1, bits);
  if (in.has("ftz")) in.op.flags |= kFlush;
  if (in.operandCount() > first + 2) {
    bool negated;
    in.op.slots[4] = in.sourcePredicate(in.operand(first + 2), negated);
    if (negated) in.op.flags |= kNegateThird;
    in.op.flags |= in.has("and") ? kAnd : in.has("or") ? kOr : in.has("xor") ? kXor : 0;
  }
  return true;
}

bool decodeSetPredicate(Instruction& in) {
  const Type source = in.type();
  const Operand& result = in.operand(0);
  const bool isPair = result.kind == Operand::Kind::kPair;
  in.op.slots[0] = in.predicate(isPair ? result.elements[0] : result);
  in.op.slots[1] = isPair ? in.predicate(result.elements[1]) : in.builder.sinkPredicate();
  decodeCompared(in, source, 1);
  Handler handler = comparing<SetPredicate>(source);
  if (source == Type::kF16x2) handler = runSetPredicatePair<Half>;
  if (source == Type::kBF16x2) handler = runSetPredicatePair<Brain>;
  return in.become(handler, OpClass::kPredicate);
}

bool decodeSet(Instruction& in) {
  const Type result = in.type(0), source = in.type(1);
  in.op.slots[0] = in.destination(0, bitsOf(result));
  decodeCompared(in, source, 1);
  in.op.offset = 0xffffffff;
  if (result == Type::kF32) in.op.offset = 0x3f800000;
  if (result == Type::kF16 || result == Type::kF16x2) in.op.offset = 0x3c003c00;
  if (result == Type::kBF16 || result == Type::kBF16x2) in.op.offset = 0x3f803f80;
  if (bitsOf(result) == 16) in.op.offset &= 0xffff;
  Handler handler = comparing<Set>(source);
  if (source == Type::kF16x2) handler = runSetPair<Half>;
  if (source == Type::kBF16x2) handler = runSetPair<Brain>;
  return in.become(handler, OpClass::kPredicate);
}

template <class W>
void runSelect(Warp& warp, const MicroOp& op, uint32_t mask) {
  W* result = warp.lanes<W>(op.slots[0]);
  const W *a = warp.lanes<W>(op.slots[1]), *b = warp.lanes<W>(op.slots[2]);
  const uint32_t chosen = warp.predicates[op.slots[3]] ^ (op.flags & 1 ? kFullMask : 0);
  forLanes(mask, [&](int lane) { result[lane] = chosen >> lane & 1 ? a[lane] : b[lane]; });
}

struct SelectByInteger {
  template <class W>
  W operator()(W a, W b, int32_t c) const {
    return c >= 0 ? a : b;
  }
};
struct SelectByFloat {
  template <class W>
  W operator()(W a, W b, float c) const {
    return c >= 0 ? a : b;
  }
};

}  // namespace

bool decodeComparison(Instruction& in) {
  const std::string& name = in.name();
  if (name == "setp") return decodeSetPredicate(in);
  if (name == "set") return decodeSet(in);
  const int bits = bitsOf(in.type(0));
  if (name == "selp") {
    bool negated;
    in.op.slots[3] = in.sourcePredicate(in.operand(3), negated);
    in.op.flags = negated;
    return in.withSlots(bits == 64 ? runSelect<uint64_t> : runSelect<uint32_t>, OpClass::kPredicate, bits,
                        {bits, bits});
  }
  if (name == "slct") {
    const bool byFloat = in.type(1) == Type::kF32;
    Handler handler = byFloat ? laneOperation<SelectByFloat, uint32_t, uint32_t, uint32_t, float>
                              : laneOperation<SelectByInteger, uint32_t, uint32_t, uint32_t, int32_t>;
    if (bits == 64) {
      handler = byFloat ? laneOperation<SelectByFloat, uint64_t, uint64_t, uint64_t, float>
                        : laneOperation<SelectByInteger, uint64_t, uint64_t, uint64_t, int32_t>;
    }
    return in.withSlots(handler, OpClass::kPredicate, bits, {bits, bits, 32});
  }
  return false;
}

}  // namespace slim::emulator
