// Logic, shifts and bit fields.
#include "decoder.h"
#include "lanes.h"

namespace slim::emulator {

namespace {

struct And {
  template <class T>
  T operator()(T a, T b) const {
    return a & b;
  }
};
struct Or {
  template <class T>
  T operator()(T a, T b) const {
    return a | b;
  }
};
struct Xor {
  template <class T>
  T operator()(T a, T b) const {
    return a ^ b;
  }
};
struct Not {
  template <class T>
  T operator()(T a) const {
    return static_cast<T>(~a);
  }
};
struct Cnot {
  template <class T>
  T operator()(T a) const {
    return a == 0;
  }
};
// Shifts by more than the width give zero, or the sign.
struct ShiftLeft {
  template <class T>
  T operator()(T a, uint32_t n) const {
    return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << n);
  }
};
struct ShiftRight {
  template <class T>
  T operator()(T a, uint32_t n) const {
    constexpr uint32_t kBits = 8 * sizeof(T);
    return static_cast<T>(a >> (n < kBits ? n : kBits - 1)) &
           (n < kBits || std::is_signed_v<T> ? static_cast<T>(~T{0}) : T{0});
  }
};
// mode 1: .clamp, else .wrap.
struct FunnelLeft {
  uint32_t operator()(const MicroOp& op, uint32_t low, uint32_t high, uint32_t n) const {
    n = op.mode == 1 ? (n < 32 ? n : 32) : n & 31;
    return static_cast<uint32_t>((uint64_t{high} << 32 | low) << n >> 32);
  }
};
struct FunnelRight {
  uint32_t operator()(const MicroOp& op, uint32_t low, uint32_t high, uint32_t n) const {
    n = op.mode == 1 ? (n < 32 ? n : 32) : n & 31;
    return static_cast<uint32_t>((uint64_t{high} << 32 | low) >> n);
  }
};
// mode: the truth table; bit 4a + 2b + c.
struct Lop3 {
  uint32_t operator()(const MicroOp& op, uint32_t a, uint32_t b, uint32_t c) const {
    uint32_t result = 0;
    const uint32_t table = op.mode;
    for (uint32_t i = 0; i < 8; i++) {
      const uint32_t selected = (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
      result |= selected & (0u - (table >> i & 1));
    }
    return result;
  }
};
// The tables that dequantization is made of, without the sum over minterms.
struct AndOr {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const { return (a & b) | c; }
};
struct AndXor {
  uint32_t operator()(uint32_t a, uint32_t b, uint32_t c) const { return (a & b) ^ c; }
};
struct Permute {
  uint32_t operator()(const MicroOp& op, uint32_t a, uint32_t b, uint32_t c) const {
    const uint64_t bytes = uint64_t{b} << 32 | a;
    uint32_t result = 0;
    for (uint32_t i = 0; i < 4; i++) {
      const uint32_t selector = op.mode == 0 ? c >> (4 * i) & 15 : select(op.mode, c & 3, i);
      uint32_t byte = static_cast<uint32_t>(bytes >> (8 * (selector & 7))) & 0xff;
      if (selector & 8) byte = byte & 0x80 ? 0xff : 0;
      result |= byte << (8 * i);
    }
    return result;
  }
  // f4e, b4e, rc8, ecl, ecr, rc16: the selectors that PTX tabulates.
  static uint32_t select(uint32_t mode, uint32_t c, uint32_t i) {
    switch (mode) {
      case 1:
        return c + i;
      case 2:
        return (c - i) & 7;
      case 3:
        return c;
      case 4:
        return i < c ? c : i;
      case 5:
        return i < c ? i : c;
      default:
        return (c & 1) * 2 + (i & 1);
    }
  }
};
struct PopCount {
  template <class T>
  uint32_t operator()(T a) const {
    return static_cast<uint32_t>(std::popcount(a));
  }
};
struct LeadingZeros {
  template <class T>
  uint32_t operator()(T a) const {
    return static_cast<uint32_t>(std::countl_zero(a));
  }
};
struct Reverse {
  template <class T>
  T operator()(T a) const {
    T result = 0;
    for (size_t i = 0; i < 8 * sizeof(T); i++) result = static_cast<T>(result << 1 | (a >> i & 1));
    return result;
  }
};
// mode 1: .shiftamt.
struct FindLeading {
  template <class T>
  uint32_t operator()(const MicroOp& op, T a) const {
    std::make_unsigned_t<T> bits = static_cast<std::make_unsigned_t<T>>(a < 0 ? ~a : a);
    const int leading = std::countl_zero(bits), width = 8 * sizeof(T);
    if (leading == width) return 0xffffffff;
    return static_cast<uint32_t>(op.mode == 1 ? leading : width - 1 - leading);
  }
};
struct ExtractField {
  template <class T>
  T operator()(T a, uint32_t position, uint32_t length) const {
    constexpr uint32_t kBits = 8 * sizeof(T);
    position &= 255;
    length &= 255;
    const bool isSigned = std::is_signed_v<T>;
    const uint32_t last = position + length - 1 < kBits - 1 ? position + length - 1 : kBits - 1;
    const bool sign = isSigned && length != 0 && (static_cast<std::make_unsigned_t<T>>(a) >> last & 1);
    std::make_unsigned_t<T> result = 0;
    for (uint32_t i = 0; i < kBits; i++) {
      const bool bit = i < length && position + i < kBits
                           ? (static_cast<std::make_unsigned_t<T>>(a) >> (position + i) & 1)
                           : sign;
      result |= static_cast<std::make_unsigned_t<T>>(bit) << i;
    }
    return static_cast<T>(result);
  }
};
struct InsertField {
  template <class T>
  T operator()(T a, T b, uint32_t position, uint32_t length) const {
    constexpr uint32_t kBits = 8 * sizeof(T);
    position &= 255;
    length &= 255;
    for (uint32_t i = 0; i < length && position + i < kBits; i++) {
      const T bit = T{1} << (position + i);
      b = (a >> i & 1) ? b | bit : b & ~bit;
    }
    return b;
  }
};
// mode 1: .clamp, else .wrap.
struct BitMask {
  uint32_t operator()(const MicroOp& op, uint32_t position, uint32_t length) const {
    position &= op.mode == 1 ? 255 : 31;
    length &= op.mode == 1 ? 255 : 31;
    if (position >= 32 || length == 0) return 0;
    const uint64_t ones = length >= 32 ? 0xffffffffu : (1u << length) - 1;
    return static_cast<uint32_t>(ones << position);
  }
};

template <class Op, int kSources>
Handler bitsFor(int bits) {
  const auto pick = []<class T>() -> Handler {
    if constexpr (kSources == 1)
      return laneOperation<Op, T, T>;
    else
      return laneOperation<Op, T, T, T>;
  };
  if (bits == 16) return pick.template operator()<uint16_t>();
  return bits == 64 ? pick.template operator()<uint64_t>() : pick.template operator()<uint32_t>();
}

template <class Op>
Handler shiftFor(Type type) {
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return laneOperation<Op, uint16_t, uint16_t, uint32_t>;
    case Type::kS16:
      return laneOperation<Op, int16_t, int16_t, uint32_t>;
    case Type::kB32:
    case Type::kU32:
      return laneOperation<Op, uint32_t, uint32_t, uint32_t>;
    case Type::kS32:
      return laneOperation<Op, int32_t, int32_t, uint32_t>;
    case Type::kB64:
    case Type::kU64:
      return laneOperation<Op, uint64_t, uint64_t, uint32_t>;
    case Type::kS64:
      return laneOperation<Op, int64_t, int64_t, uint32_t>;
    default:
      return nullptr;
  }
}

template <class Op>
Handler countFor(Type type) {
  switch (type) {
    case Type::kB32:
    case Type::kU32:
      return laneOperation<Op, uint32_t, uint32_t>;
    case Type::kB64:
    case Type::kU64:
      return laneOperation<Op, uint32_t, uint64_t>;
    default:
      return nullptr;
  }
}

// Logic of predicates: one word of 32 lanes. mode 0 and, 1 or, 2 xor, 3 not or move; flags: negated sources.
void runPredicateLogic(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t a = warp.predicates[op.slots[1]] ^ (op.flags & 1 ? kFullMask : 0);
  const uint32_t b = warp.predicates[op.slots[2]] ^ (op.flags & 2 ? kFullMask : 0);
  const uint32_t result = op.mode == 0 ? a & b : op.mode == 1 ? a | b : op.mode == 2 ? a ^ b : a;
  uint32_t& out = warp.predicates[op.slots[0]];
  out = (out & ~mask) | (result & mask);
}

bool decodePredicateLogic(Instruction& in) {
  const std::string& name = in.name();
  in.op.mode = name == "and" ? 0 : name == "or" ? 1 : name == "xor" ? 2 : 3;
  in.op.slots[0] = in.predicate(in.operand(0));
  bool negatedA, negatedB = false;
  in.op.slots[1] = in.op.slots[2] = in.sourcePredicate(in.operand(1), negatedA);
  if (in.op.mode != 3) in.op.slots[2] = in.sourcePredicate(in.operand(2), negatedB);
  in.op.flags = static_cast<uint8_t>((negatedA ^ (name == "not")) | negatedB << 1);
  return in.become(runPredicateLogic, OpClass::kPredicate);
}

bool decodeLop3(Instruction& in) {
  uint64_t table;
  if (!in.immediate(4, table)) return in.fail("a truth table expected");
  in.op.mode = static_cast<uint8_t>(table);
  Handler handler = laneOperation<Lop3, uint32_t, uint32_t, uint32_t, uint32_t>;
  if (table == 0xEA) handler = laneOperation<AndOr, uint32_t, uint32_t, uint32_t, uint32_t>;
  if (table == 0x6A) handler = laneOperation<AndXor, uint32_t, uint32_t, uint32_t, uint32_t>;
  return in.withSlots(handler, OpClass::kInteger, 32, {32, 32, 32});
}

bool decodeFields(Instruction& in) {
  const bool wide = bitsOf(in.type()) == 64;
  const int bits = wide ? 64 : 32;
  if (in.name() == "bfi") {
    return in.withSlots(wide ? laneOperation<InsertField, uint64_t, uint64_t, uint64_t, uint32_t, uint32_t>
                             : laneOperation<InsertField, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t>,
                        OpClass::kInteger, bits, {bits, bits, 32, 32});
  }
  Handler handler = laneOperation<ExtractField, uint32_t, uint32_t, uint32_t, uint32_t>;
  if (in.type() == Type::kS32) handler = laneOperation<ExtractField, int32_t, int32_t, uint32_t, uint32_t>;
  if (in.type() == Type::kU64) handler = laneOperation<ExtractField, uint64_t, uint64_t, uint32_t, uint32_t>;
  if (in.type() == Type::kS64) handler = laneOperation<ExtractField, int64_t, int64_t, uint32_t, uint32_t>;
  return in.withSlots(handler, OpClass::kInteger, bits, {bits, 32, 32});
}

bool decodePermute(Instruction& in) {
  static constexpr const char* kModes[] = {"", "f4e", "b4e", "rc8", "ecl", "ecr", "rc16"};
  for (uint8_t i = 1; i < 7; i++) {
    if (in.has(kModes[i])) in.op.mode = i;
  }
  return in.withSlots(laneOperation<Permute, uint32_t, uint32_t, uint32_t, uint32_t>, OpClass::kInteger, 32,
                      {32, 32, 32});
}

bool decodeFindLeading(Instruction& in) {
  in.op.mode = in.has("shiftamt");
  switch (in.type()) {
    case Type::kU32:
      return in.withSlots(laneOperation<FindLeading, uint32_t, uint32_t>, OpClass::kInteger, 32, {32});
    case Type::kS32:
      return in.withSlots(laneOperation<FindLeading, uint32_t, int32_t>, OpClass::kInteger, 32, {32});
    case Type::kU64:
      return in.withSlots(laneOperation<FindLeading, uint32_t, uint64_t>, OpClass::kInteger, 32, {64});
    default:
      return in.withSlots(laneOperation<FindLeading, uint32_t, int64_t>, OpClass::kInteger, 32, {64});
  }
}

}  // namespace

bool decodeBits(Instruction& in) {
  const std::string& name = in.name();
  const bool logic = name == "and" || name == "or" || name == "xor" || name == "not";
  if (in.type() == Type::kPred && (logic || name == "mov")) return decodePredicateLogic(in);
  const int bits = bitsOf(in.type());
  const auto two = [&](Handler handler) {
    return in.withSlots(handler, OpClass::kInteger, bits, {bits, bits});
  };
  if (name == "and") return two(bitsFor<And, 2>(bits));
  if (name == "or") return two(bitsFor<Or, 2>(bits));
  if (name == "xor") return two(bitsFor<Xor, 2>(bits));
  if (name == "not") return in.withSlots(bitsFor<Not, 1>(bits), OpClass::kInteger, bits, {bits});
  if (name == "cnot") return in.withSlots(bitsFor<Cnot, 1>(bits), OpClass::kInteger, bits, {bits});
  if (name == "shl") return in.withSlots(shiftFor<ShiftLeft>(in.type()), OpClass::kInteger, bits, {bits, 32});
  if (name == "shr")
    return in.withSlots(shiftFor<ShiftRight>(in.type()), OpClass::kInteger, bits, {bits, 32});
  if (name == "shf") {
    in.op.mode = in.has("clamp");
    return in.withSlots(in.has("l") ? laneOperation<FunnelLeft, uint32_t, uint32_t, uint32_t, uint32_t>
                                    : laneOperation<FunnelRight, uint32_t, uint32_t, uint32_t, uint32_t>,
                        OpClass::kInteger, 32, {32, 32, 32});
  }
  if (name == "lop3") return decodeLop3(in);
  if (name == "prmt") return decodePermute(in);
  if (name == "popc") return in.withSlots(countFor<PopCount>(in.type()), OpClass::kInteger, 32, {bits});
  if (name == "clz") return in.withSlots(countFor<LeadingZeros>(in.type()), OpClass::kInteger, 32, {bits});
  if (name == "brev") return in.withSlots(bitsFor<Reverse, 1>(bits), OpClass::kInteger, bits, {bits});
  if (name == "bfind") return decodeFindLeading(in);
  if (name == "bfe" || name == "bfi") return decodeFields(in);
  if (name == "bmsk") {
    in.op.mode = in.has("clamp");
    return in.withSlots(laneOperation<BitMask, uint32_t, uint32_t, uint32_t>, OpClass::kInteger, 32,
                        {32, 32});
  }
  return false;
}

}  // namespace slim::emulator
