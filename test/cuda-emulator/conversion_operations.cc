// cvt between all the number types, with its rounding modes, .sat, .ftz and .relu; cvt.pack.
#include <algorithm>
#include <cmath>
#include <limits>

#include "decoder.h"
#include "lanes.h"
#include "number_formats.h"

namespace slim::emulator {

namespace {

constexpr uint8_t kFlush = 1, kSaturate = 2, kRelu = 4,
                  kToInteger = 8;  // the last: .rni and its like, of floats

Rounding modeOf(const MicroOp& op) { return static_cast<Rounding>(op.mode); }

double roundInteger(double x, Rounding mode) {
  switch (mode) {
    case Rounding::kNearest:
      return std::nearbyint(x);
    case Rounding::kZero:
      return std::trunc(x);
    case Rounding::kDown:
      return std::floor(x);
    default:
      return std::ceil(x);
  }
}

double flush(double x, double smallest) { return std::fabs(x) < smallest ? std::copysign(0.0, x) : x; }

template <class T>
double widen(T x) {
  if constexpr (std::is_same_v<T, Half> || std::is_same_v<T, Brain>)
    return toFloat(x);
  else
    return static_cast<double>(x);
}

// An integer of 64 bits need not fit a double: made odd where it does not, one more rounding is right.
template <class T>
double integerToOdd(T x) {
  const auto d = static_cast<double>(x);
  if constexpr (sizeof(T) == 8) {
    const double limit = std::ldexp(1.0, std::is_signed_v<T> ? 63 : 64);
    // Compared as integers; 2^63 and 2^64 themselves are above every T.
    const bool above = d >= limit || static_cast<T>(d) > x;
    const bool exact = !above && static_cast<T>(d) == x;
    const auto bits = std::bit_cast<uint64_t>(d);
    if (exact || (bits & 1)) return d;
    return std::bit_cast<double>(above == (x > 0) ? bits - 1 : bits + 1);
  }
  return d;
}

template <class D>
D narrow(double x, const MicroOp& op) {
  const Rounding mode = modeOf(op);
  if constexpr (std::is_same_v<D, Half>)
    return toHalf(x, mode);
  else if constexpr (std::is_same_v<D, Brain>)
    return toBrain(x, mode);
  else if constexpr (std::is_same_v<D, float>) {
    if (std::isnan(x)) return std::bit_cast<float>(0x7fffffffu);
    return mode == Rounding::kNearest ? static_cast<float>(x)
                                      : static_cast<float>(roundTo(x, 23, -126, 127, mode));
  } else {
    return x;
  }
}

template <class T>
constexpr bool kIsInteger = std::is_integral_v<T>;

template <class D, class S>
D floatToInteger(double x, bool sourceIsDouble) {
  if (std::isnan(x)) {
    if (!sourceIsDouble && sizeof(D) < 8) return 0;
    return static_cast<D>(uint64_t{1} << (8 * sizeof(D) - 1));
  }
  const double above = std::ldexp(1.0, static_cast<int>(8 * sizeof(D)) - std::is_signed_v<D>);
  if (x >= above) return std::numeric_limits<D>::max();
  if (x < static_cast<double>(std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
  return static_cast<D>(x);
}

template <class D, class S>
struct Convert {
  D operator()(const MicroOp& op, S s) const {
    if constexpr (kIsInteger<S> && kIsInteger<D>) {
      if (!(op.flags & kSaturate)) return static_cast<D>(s);
      if (std::cmp_less(s, std::numeric_limits<D>::min())) return std::numeric_limits<D>::min();
      if (std::cmp_greater(s, std::numeric_limits<D>::max())) return std::numeric_limits<D>::max();
      return static_cast<D>(s);
    } else if constexpr (kIsInteger<S>) {
      if constexpr (std::is_same_v<D, double>) {
        if (op.mode != 0) return roundedDouble(s, modeOf(op));
        return static_cast<double>(s);
      } else {
        const D result = narrow<D>(integerToOdd(s), op);
        return op.flags & kSaturate ? saturated(result, op) : result;
      }
    } else {
      double x = widen(s);
      if ((op.flags & kFlush) && std::is_same_v<S, float>) x = flush(x, 0x1p-126);
      if constexpr (kIsInteger<D>) {
        return floatToInteger<D, S>(roundInteger(x, modeOf(op)), std::is_same_v<S, double>);
      } else {
        if (op.flags & kToInteger) {
          x = std::copysign(roundInteger(x, modeOf(op)), x);
          D result = narrow<D>(x, MicroOp{});
          return op.flags & kSaturate ? saturated(result, op) : result;
        }
        D result = narrow<D>(x, op);
        if ((op.flags & kFlush) && std::is_same_v<D, float>)
          result = narrow<D>(flush(widen(result), 0x1p-126), op);
        if ((op.flags & kRelu) && widen(result) <= 0) return narrow<D>(0.0, op);
        return op.flags & kSaturate ? saturated(result, op) : result;
      }
    }
  }
  static D saturated(D x, const MicroOp& op) {
    const double value = widen(x);
    return narrow<D>(value > 0 ? std::min(value, 1.0) : 0.0, op);
  }
  // Of a 64-bit integer to f64 in a directed mode.
  static double roundedDouble(S s, Rounding mode) {
    const auto nearest = static_cast<double>(s);
    const long double exact = s;  // 64 bits of fraction
    if (exact == nearest) return nearest;
    const bool isAbove = nearest > exact;
    if (mode == Rounding::kUp) return isAbove ? nearest : std::nextafter(nearest, INFINITY);
    if (mode == Rounding::kDown) return isAbove ? std::nextafter(nearest, -INFINITY) : nearest;
    return isAbove == (exact > 0) ? std::nextafter(nearest, 0.0) : nearest;
  }
};

struct HalfToFloat {
  float operator()(Half h) const {
    const float x = toFloat(h);
    return x == x ? x : std::bit_cast<float>(0x7fffffffu);
  }
};
struct FloatToHalf {
  Half operator()(float x) const { return nearestHalf(x); }
};

// Type codes with the source's and the result's C++ types.
template <class D>
Handler fromType(Type source) {
  switch (source) {
    case Type::kU8:
      return laneOperation<Convert<D, uint8_t>, D, uint8_t>;
    case Type::kS8:
      return laneOperation<Convert<D, int8_t>, D, int8_t>;
    case Type::kU16:
      return laneOperation<Convert<D, uint16_t>, D, uint16_t>;
    case Type::kS16:
      return laneOperation<Convert<D, int16_t>, D, int16_t>;
    case Type::kU32:
      return laneOperation<Convert<D, uint32_t>, D, uint32_t>;
    case Type::kS32:
      return laneOperation<Convert<D, int32_t>, D, int32_t>;
    case Type::kU64:
      return laneOperation<Convert<D, uint64_t>, D, uint64_t>;
    case Type::kS64:
      return laneOperation<Convert<D, int64_t>, D, int64_t>;
    case Type::kF16:
      return laneOperation<Convert<D, Half>, D, Half>;
    case Type::kBF16:
      return laneOperation<Convert<D, Brain>, D, Brain>;
    case Type::kF32:
      return laneOperation<Convert<D, float>, D, float>;
    case Type::kF64:
      return laneOperation<Convert<D, double>, D, double>;
    default:
      return nullptr;
  }
}

Handler conversion(Type result, Type source) {
  switch (result) {
    case Type::kU8:
      return fromType<uint8_t>(source);
    case Type::kS8:
      return fromType<int8_t>(source);
    case Type::kU16:
      return fromType<uint16_t>(source);
    case Type::kS16:
      return fromType<int16_t>(source);
    case Type::kU32:
      return fromType<uint32_t>(source);
    case Type::kS32:
      return fromType<int32_t>(source);
    case Type::kU64:
      return fromType<uint64_t>(source);
    case Type::kS64:
      return fromType<int64_t>(source);
    case Type::kF16:
      return fromType<Half>(source);
    case Type::kBF16:
      return fromType<Brain>(source);
    case Type::kF32:
      return fromType<float>(source);
    case Type::kF64:
      return fromType<double>(source);
    default:
      return nullptr;
  }
}

// cvt.rn.f16x2.f32 d, a, b: a becomes the upper half.
template <class H>
struct ConvertPair {
  uint32_t operator()(const MicroOp& op, float high, float low) const {
    const Convert<H, float> convert;
    return uint32_t{convert(op, high).bits} << 16 | convert(op, low).bits;
  }
};

// To 10 bits of fraction, ties away from zero.
struct ToTF32 {
  float operator()(float x) const {
    if (!std::isfinite(x)) return x;
    return std::bit_cast<float>((std::bit_cast<uint32_t>(x) + 0x1000) & 0xffffe000u);
  }
};

// The register may be wider than the type it is read or written as: the widths of the slots are the
// registers'. A result of 8 to 32 bits in a 64-bit register, or a source in one, goes through a 32-bit
// scratch slot.
void runNarrow(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    warp.lanes<uint32_t>(op.slots[0])[lane] = static_cast<uint32_t>(warp.lanes<uint64_t>(op.slots[1])[lane]);
  });
}

// flags 1: sign-extend from op.bytes.
void runWiden(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    const uint32_t value = warp.lanes<uint32_t>(op.slots[1])[lane];
    const int shift = 64 - 8 * op.bytes;
    const int64_t extended = static_cast<int64_t>(uint64_t{value} << shift) >> shift;
    warp.lanes<uint64_t>(op.slots[0])[lane] = op.flags & 1 ? static_cast<uint64_t>(extended) : value;
  });
}

// Results of less than 32 bits are extended to the register by their sign.
void runExtend(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    uint32_t& value = warp.lanes<uint32_t>(op.slots[0])[lane];
    value = op.bytes == 1 ? static_cast<uint32_t>(static_cast<int8_t>(value))
                          : static_cast<uint32_t>(static_cast<int16_t>(value));
    if (op.flags == 16) value &= 0xffff;
  });
}

void setModes(Instruction& in) {
  in.op.flags = static_cast<uint8_t>((in.has("ftz") ? kFlush : 0) | (in.has("sat") ? kSaturate : 0) |
                                     (in.has("relu") ? kRelu : 0));
  static constexpr const char* kFloatModes[] = {"rn", "rz", "rm", "rp"};
  static constexpr const char* kIntegerModes[] = {"rni", "rzi", "rmi", "rpi"};
  for (uint8_t i = 0; i < 4; i++) {
    if (in.has(kFloatModes[i])) in.op.mode = i;
    if (in.has(kIntegerModes[i])) {
      in.op.mode = i;
      in.op.flags |= kToInteger;
    }
  }
}

bool decodePack(Instruction& in);

}  // namespace

bool decodeConversion(Instruction& in) {
  if (in.name() != "cvt") return false;
  if (in.has("pack")) return decodePack(in);
  setModes(in);
  Type result = in.type(0);
  const Type source = in.type(1);
  if (result == Type::kF16x2 || result == Type::kBF16x2) {
    return in.withSlots(result == Type::kF16x2 ? laneOperation<ConvertPair<Half>, uint32_t, float, float>
                                               : laneOperation<ConvertPair<Brain>, uint32_t, float, float>,
                        OpClass::kConversion, 32, {32, 32});
  }
  if (result == Type::kTF32 && in.has("rna"))
    return in.withSlots(laneOperation<ToTF32, float, float>, OpClass::kConversion, 32, {32});
  Handler handler = conversion(result, source);
  if (in.op.flags == 0 && in.op.mode == 0) {
    if (result == Type::kF32 && source == Type::kF16) handler = laneOperation<HalfToFloat, float, Half>;
    if (result == Type::kF16 && source == Type::kF32) handler = laneOperation<FloatToHalf, Half, float>;
  }
  const int resultBits = bitsOf(result), sourceBits = bitsOf(source);
  const bool sourceIsWider = in.isWide(in.operand(1)) && sourceBits < 64;
  const bool resultIsWider = in.isWide(in.operand(0)) && resultBits < 64;
  if (sourceIsWider) {
    MicroOp narrowing = in.op;
    narrowing.run = runNarrow;
    narrowing.opClass = OpClass::kMove;
    narrowing.slots[0] = in.scratch();
    narrowing.slots[1] = in.source(1, 64);
    in.builder.emit(narrowing);
    in.op.slots[1] = narrowing.slots[0];
  } else {
    in.op.slots[1] = in.source(1, sourceBits);
  }
  if (!resultIsWider) {
    in.op.slots[0] = in.destination(0, resultBits);
    const int declared = in.declaredBits(in.operand(0));
    if (!isSigned(result) || resultBits >= declared) return in.become(handler, OpClass::kConversion);
    in.become(handler, OpClass::kConversion);
    in.builder.emit(in.op);
    in.op.bytes = static_cast<uint8_t>(resultBits / 8);
    in.op.flags = static_cast<uint8_t>(declared);
    return in.become(runExtend, OpClass::kMove);
  }
  in.op.slots[0] = in.scratch();
  in.become(handler, OpClass::kConversion);
  in.builder.emit(in.op);
  in.op.slots[1] = in.op.slots[0];
  in.op.slots[0] = in.destination(0, 64);
  in.op.bytes = static_cast<uint8_t>(resultBits / 8);
  in.op.flags = isSigned(result);
  return in.become(runWiden, OpClass::kMove);
}

namespace {

// cvt.pack.sat.type.s32[.b32] d, a, b[, c]: a and b saturated, a above b; below them, what of c is left.
struct Pack16 {
  uint32_t operator()(const MicroOp& op, int32_t a, int32_t b) const {
    const auto one = [&](int32_t x) -> uint32_t {
      return static_cast<uint16_t>(op.flags & 1 ? std::clamp(x, -32768, 32767) : std::clamp(x, 0, 65535));
    };
    return one(a) << 16 | one(b);
  }
};
struct Pack8 {
  uint32_t operator()(const MicroOp& op, int32_t a, int32_t b, uint32_t c) const {
    const auto one = [&](int32_t x) -> uint32_t {
      return static_cast<uint8_t>(op.flags & 1 ? std::clamp(x, -128, 127) : std::clamp(x, 0, 255));
    };
    return c << 16 | one(a) << 8 | one(b);
  }
};

bool decodePack(Instruction& in) {
  in.op.flags = isSigned(in.type(0));
  if (!in.has("sat")) return in.fail("cvt.pack saturates");
  if (bitsOf(in.type(0)) == 16) {
    return in.withSlots(laneOperation<Pack16, uint32_t, int32_t, int32_t>, OpClass::kConversion, 32,
                        {32, 32});
  }
  if (bitsOf(in.type(0)) != 8 || in.operandCount() != 4)
    return in.fail("this form of cvt.pack is not emulated");
  return in.withSlots(laneOperation<Pack8, uint32_t, int32_t, int32_t, uint32_t>, OpClass::kConversion, 32,
                      {32, 32, 32});
}

}  // namespace

}  // namespace slim::emulator
