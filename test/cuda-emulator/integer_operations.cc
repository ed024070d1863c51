// Integer arithmetic.
#include <algorithm>
#include <limits>

#include "decoder.h"
#include "lanes.h"

namespace slim::emulator {

namespace {

template <class T>
using Unsigned = std::make_unsigned_t<T>;
template <class T>
struct WiderOf;
template <>
struct WiderOf<uint16_t> {
  using Type = uint32_t;
};
template <>
struct WiderOf<int16_t> {
  using Type = int32_t;
};
template <>
struct WiderOf<uint32_t> {
  using Type = uint64_t;
};
template <>
struct WiderOf<int32_t> {
  using Type = int64_t;
};
__extension__ typedef __int128 Int128;
__extension__ typedef unsigned __int128 Uint128;
template <>
struct WiderOf<uint64_t> {
  using Type = Uint128;
};
template <>
struct WiderOf<int64_t> {
  using Type = Int128;
};
template <class T>
using Wider = typename WiderOf<T>::Type;

// Arithmetic wraps: it is done on wider unsigned numbers.
struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(uint64_t(a) + uint64_t(b));
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(uint64_t(a) - uint64_t(b));
  }
};
struct MulLow {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(uint64_t(a) * uint64_t(b));
  }
};
struct MulHigh {
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>((Wider<T>(a) * Wider<T>(b)) >> (8 * sizeof(T)));
  }
};
struct MulWide {
  template <class T>
  Wider<T> operator()(T a, T b) const {
    return Wider<T>(a) * Wider<T>(b);
  }
};
struct MadLow {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(MulLow{}(a, b), c);
  }
};
struct MadHigh {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(MulHigh{}(a, b), c);
  }
};
struct MadWide {
  template <class T>
  Wider<T> operator()(T a, T b, Wider<T> c) const {
    return Add{}(MulWide{}(a, b), c);
  }
};
struct Mul24 {
  template <class T>
  static int64_t cut(T a) {
    return std::is_signed_v<T> ? int64_t(int32_t(uint32_t(a) << 8) >> 8) : int64_t(uint32_t(a) & 0xffffff);
  }
  template <class T>
  T operator()(T a, T b) const {
    return static_cast<T>(cut(a) * cut(b));
  }
};
struct Mad24 {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(Mul24{}(a, b), c);
  }
};
struct Sad {
  template <class T>
  T operator()(T a, T b, T c) const {
    return Add{}(c, a < b ? Sub{}(b, a) : Sub{}(a, b));
  }
};
// Division by zero gives all ones and the dividend, as the hardware does.
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return static_cast<T>(~T{0});
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return Sub{}(T{0}, a);
    return static_cast<T>(a / b);
  }
};
struct Rem {
  template <class T>
  T operator()(T a, T b) const {
    if (b == 0) return a;
    if (std::is_signed_v<T> && b == static_cast<T>(-1)) return 0;
    return static_cast<T>(a % b);
  }
};
struct Min {
  template <class T>
  T operator()(T a, T b) const {
    return std::min(a, b);
  }
};
struct Max {
  template <class T>
  T operator()(T a, T b) const {
    return std::max(a, b);
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    return Sub{}(T{0}, a);
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    return a < 0 ? Sub{}(T{0}, a) : a;
  }
};
struct AddSaturated {
  int32_t operator()(int32_t a, int32_t b) const {
    return static_cast<int32_t>(std::clamp<int64_t>(int64_t{a} + b, INT32_MIN, INT32_MAX));
  }
};
struct SubSaturated {
  int32_t operator()(int32_t a, int32_t b) const {
    return static_cast<int32_t>(std::clamp<int64_t>(int64_t{a} - b, INT32_MIN, INT32_MAX));
  }
};

// flags: 1 a's bytes are signed, 2 b's are; mode: 1 takes b's upper half (dp2a).
int32_t byteOf(uint32_t word, int i, bool isSigned) {
  const uint32_t byte = word >> (8 * i) & 0xff;
  return isSigned ? static_cast<int8_t>(byte) : static_cast<int32_t>(byte);
}
struct Dp4a {
  uint32_t operator()(const MicroOp& op, uint32_t a, uint32_t b, uint32_t c) const {
    for (int i = 0; i < 4; i++)
      c += static_cast<uint32_t>(byteOf(a, i, op.flags & 1) * byteOf(b, i, op.flags & 2));
    return c;
  }
};
struct Dp2a {
  uint32_t operator()(const MicroOp& op, uint32_t a, uint32_t b, uint32_t c) const {
    for (int i = 0; i < 2; i++) {
      const uint32_t half = a >> (16 * i) & 0xffff;
      const int32_t wide = op.flags & 1 ? static_cast<int16_t>(half) : static_cast<int32_t>(half);
      c += static_cast<uint32_t>(wide) * static_cast<uint32_t>(byteOf(b, i + 2 * op.mode, op.flags & 2));
    }
    return c;
  }
};

template <class Op, class T>
Handler unary() {
  return laneOperation<Op, T, T>;
}
template <class Op, class T>
Handler binary() {
  return laneOperation<Op, T, T, T>;
}
template <class Op, class T>
Handler ternary() {
  return laneOperation<Op, T, T, T, T>;
}

template <class Op, int kSources>
Handler forType(Type type) {
  const auto pick = []<class T>() -> Handler {
    if constexpr (kSources == 1)
      return unary<Op, T>();
    else if constexpr (kSources == 2)
      return binary<Op, T>();
    else
      return ternary<Op, T>();
  };
  switch (type) {
    case Type::kU16:
    case Type::kB16:
      return pick.template operator()<uint16_t>();
    case Type::kS16:
      return pick.template operator()<int16_t>();
    case Type::kU32:
    case Type::kB32:
      return pick.template operator()<uint32_t>();
    case Type::kS32:
      return pick.template operator()<int32_t>();
    case Type::kU64:
    case Type::kB64:
      return pick.template operator()<uint64_t>();
    case Type::kS64:
      return pick.template operator()<int64_t>();
    default:
      return nullptr;
  }
}

Handler wideFor(Type type, bool addend) {
  switch (type) {
    case Type::kU16:
      return addend ? laneOperation<MadWide, uint32_t, uint16_t, uint16_t, uint32_t>
                    : laneOperation<MulWide, uint32_t, uint16_t, uint16_t>;
    case Type::kS16:
      return addend ? laneOperation<MadWide, int32_t, int16_t, int16_t, int32_t>
                    : laneOperation<MulWide, int32_t, int16_t, int16_t>;
    case Type::kU32:
      return addend ? laneOperation<MadWide, uint64_t, uint32_t, uint32_t, uint64_t>
                    : laneOperation<MulWide, uint64_t, uint32_t, uint32_t>;
    case Type::kS32:
      return addend ? laneOperation<MadWide, int64_t, int32_t, int32_t, int64_t>
                    : laneOperation<MulWide, int64_t, int32_t, int32_t>;
    default:
      return nullptr;
  }
}

// add.cc, addc, sub.cc, subc, mad.cc and madc: a carry bit a lane. mode: 0 add, 1 sub, 2 mad.lo, 3 mad.hi;
// flags: 1 takes the carry in, 2 sets it.
template <class T>
void runCarry(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    const auto value = [&](int i) { return warp.lanes<T>(op.slots[i])[lane]; };
    const T in = op.flags & 1 ? warp.carry >> lane & 1 : 0;
    Uint128 result;
    if (op.mode == 1) {
      // The carry holds the borrow.
      result = Uint128(value(1)) - value(2) - in;
    } else if (op.mode == 0) {
      result = Uint128(value(1)) + value(2) + in;
    } else {
      const Uint128 product = Uint128(value(1)) * value(2);
      result = (op.mode == 2 ? T(product) : T(product >> (8 * sizeof(T)))) + Uint128(value(3)) + in;
    }
    if (op.flags & 2) {
      const uint32_t out = (result >> (8 * sizeof(T))) != 0;
      warp.carry = (warp.carry & ~(1u << lane)) | out << lane;
    }
    warp.lanes<T>(op.slots[0])[lane] = static_cast<T>(result);
  });
}

bool decodeCarry(Instruction& in, const std::string& base) {
  const int bits = bitsOf(in.type());
  in.op.flags = static_cast<uint8_t>((in.name().back() == 'c') | in.has("cc") << 1);
  const bool isMad = base == "mad";
  in.op.mode = base == "sub" ? 1 : isMad ? (in.has("hi") ? 3 : 2) : 0;
  if (isMad && in.type() != Type::kU32 && in.type() != Type::kU64)
    return in.fail("carries of mad are emulated for .u32 and .u64");
  const Handler handler = bits == 64 ? runCarry<uint64_t> : runCarry<uint32_t>;
  return isMad ? in.withSlots(handler, OpClass::kInteger, bits, {bits, bits, bits})
               : in.withSlots(handler, OpClass::kInteger, bits, {bits, bits});
}

}  // namespace

bool decodeInteger(Instruction& in) {
  const std::string& name = in.name();
  const Type type = in.type();
  if (name == "dp4a" || name == "dp2a") {
    in.op.flags = static_cast<uint8_t>(isSigned(in.type(0)) | isSigned(in.type(1)) << 1);
    in.op.mode = in.has("hi");
    return in.withSlots(name == "dp4a" ? laneOperation<Dp4a, uint32_t, uint32_t, uint32_t, uint32_t>
                                       : laneOperation<Dp2a, uint32_t, uint32_t, uint32_t, uint32_t>,
                        OpClass::kInteger, 32, {32, 32, 32});
  }
  if (isFloat(type) || type == Type::kPred || type == Type::kNone) return false;
  const int bits = bitsOf(type);
  const auto one = [&](Handler handler) { return in.withSlots(handler, OpClass::kInteger, bits, {bits}); };
  const auto two = [&](Handler handler) {
    return in.withSlots(handler, OpClass::kInteger, bits, {bits, bits});
  };
  const auto three = [&](Handler handler) {
    return in.withSlots(handler, OpClass::kInteger, bits, {bits, bits, bits});
  };
  if (name == "addc" || name == "subc" || name == "madc") return decodeCarry(in, name.substr(0, 3));
  if ((name == "add" || name == "sub" || name == "mad") && in.has("cc")) return decodeCarry(in, name);
  if (name == "add" && in.has("sat")) return two(binary<AddSaturated, int32_t>());
  if (name == "sub" && in.has("sat")) return two(binary<SubSaturated, int32_t>());
  if (name == "add") return two(forType<Add, 2>(type));
  if (name == "sub") return two(forType<Sub, 2>(type));
  if (name == "mul" && in.has("wide"))
    return in.withSlots(wideFor(type, false), OpClass::kInteger, 2 * bits, {bits, bits});
  if (name == "mad" && in.has("wide"))
    return in.withSlots(wideFor(type, true), OpClass::kInteger, 2 * bits, {bits, bits, 2 * bits});
  if (name == "mul") return two(in.has("hi") ? forType<MulHigh, 2>(type) : forType<MulLow, 2>(type));
  if (name == "mad" && in.has("sat")) return in.fail("mad.sat is not emulated");
  if (name == "mad") return three(in.has("hi") ? forType<MadHigh, 3>(type) : forType<MadLow, 3>(type));
  if ((name == "mul24" || name == "mad24") && in.has("hi"))
    return in.fail("the upper half of 24-bit products is not emulated");
  if (name == "mul24") return two(type == Type::kS32 ? binary<Mul24, int32_t>() : binary<Mul24, uint32_t>());
  if (name == "mad24")
    return three(type == Type::kS32 ? ternary<Mad24, int32_t>() : ternary<Mad24, uint32_t>());
  if (name == "sad") return three(forType<Sad, 3>(type));
  if (name == "div") return two(forType<Div, 2>(type));
  if (name == "rem") return two(forType<Rem, 2>(type));
  if (name == "min") return two(forType<Min, 2>(type));
  if (name == "max") return two(forType<Max, 2>(type));
  if (name == "neg") return one(forType<Negate, 1>(type));
  if (name == "abs") return one(forType<Absolute, 1>(type));
  return false;
}

}  // namespace slim::emulator
