// f16, bf16 and their pairs. Sums and products of two halves are right when rounded from a float (24 >= 2 *
// 11 + 2 bits); a fused multiply-add is computed in double with rounding to odd, then rounded once.
#include <cmath>

#include "decoder.h"
#include "lanes.h"
#include "number_formats.h"

namespace slim::emulator {

namespace {

constexpr uint8_t kFlush = 1, kSaturate = 2, kPropagateNaN = 4, kRelu = 8;

template <class H>
H finish(const MicroOp& op, H h) {
  if (op.flags == 0) return h;
  const float x = toFloat(h);
  constexpr float kSmallest = std::is_same_v<H, Half> ? 0x1p-14f : 0x1p-126f;
  if ((op.flags & kSaturate)) return fromFloat(x > 0 ? std::fmin(x, 1.0f) : 0.0f, H{});
  if ((op.flags & kRelu) && !std::isnan(x)) return x > 0 ? h : H{0};
  if ((op.flags & kFlush) && std::fabs(x) < kSmallest) return {static_cast<uint16_t>(h.bits & 0x8000)};
  return h;
}

template <class H>
float input(const MicroOp& op, H h) {
  const float x = toFloat(h);
  constexpr float kSmallest = std::is_same_v<H, Half> ? 0x1p-14f : 0x1p-126f;
  return (op.flags & kFlush) && std::fabs(x) < kSmallest ? std::copysign(0.0f, x) : x;
}

struct Add {
  template <class H>
  H operator()(const MicroOp& op, H a, H b) const {
    return finish(op, fromDouble(double{input(op, a)} + input(op, b), H{}));
  }
};
struct Sub {
  template <class H>
  H operator()(const MicroOp& op, H a, H b) const {
    return finish(op, fromDouble(double{input(op, a)} - input(op, b), H{}));
  }
};
struct Mul {
  template <class H>
  H operator()(const MicroOp& op, H a, H b) const {
    return finish(op, fromDouble(double{input(op, a)} * input(op, b), H{}));
  }
};
struct FastAdd {
  Half operator()(Half a, Half b) const { return nearestHalf(toFloat(a) + toFloat(b)); }
};
struct FastSub {
  Half operator()(Half a, Half b) const { return nearestHalf(toFloat(a) - toFloat(b)); }
};
struct FastMul {
  Half operator()(Half a, Half b) const { return nearestHalf(toFloat(a) * toFloat(b)); }
};
struct Fma {
  template <class H>
  H operator()(const MicroOp& op, H a, H b, H c) const {
    return finish(op, fromDouble(fusedToOdd(input(op, a), input(op, b), input(op, c)), H{}));
  }
};
// A half's product with a half is exact in a float, and so is most often the sum: only else is double needed.
struct FastFma {
  Half operator()(Half a, Half b, Half c) const {
    const double sum = fusedToOdd(toFloat(a), toFloat(b), toFloat(c));
    const auto narrowed = static_cast<float>(sum);
    if (static_cast<double>(narrowed) == sum) return nearestHalf(narrowed);
    return toHalf(sum);
  }
};
struct Negate {
  template <class H>
  H operator()(const MicroOp& op, H a) const {
    return finish(op, H{static_cast<uint16_t>(a.bits ^ 0x8000)});
  }
};
struct Absolute {
  template <class H>
  H operator()(const MicroOp& op, H a) const {
    return finish(op, H{static_cast<uint16_t>(a.bits & 0x7fff)});
  }
};
template <bool kMin>
struct Extreme {
  template <class H>
  H operator()(const MicroOp& op, H a, H b) const {
    const float x = input(op, a), y = input(op, b);
    if (std::isnan(x) || std::isnan(y)) {
      if ((op.flags & kPropagateNaN) || (std::isnan(x) && std::isnan(y))) return {kCanonicalNaN};
      return fromFloat(std::isnan(x) ? y : x, H{});
    }
    if (x == y) return fromFloat(std::signbit(x) == kMin ? x : y, H{});
    return fromFloat((x < y) == kMin ? x : y, H{});
  }
};
struct Exp2 {
  template <class H>
  H operator()(const MicroOp& op, H a) const {
    return finish(op, fromDouble(std::exp2(double{input(op, a)}), H{}));
  }
};
struct Tanh {
  template <class H>
  H operator()(const MicroOp& op, H a) const {
    return finish(op, fromDouble(std::tanh(double{input(op, a)}), H{}));
  }
};

// Both halves of a 32-bit register.
template <class Op, class H>
struct Paired {
  template <class... S>
  uint32_t operator()(const MicroOp& op, S... s) const {
    const auto half = [&](int shift) -> uint32_t {
      if constexpr (std::is_invocable_v<Op, const MicroOp&, Same<S>...>)
        return Op{}(op, H{static_cast<uint16_t>(s >> shift)}...).bits;
      else
        return Op{}(H{static_cast<uint16_t>(s >> shift)}...).bits;
    };
    return half(0) | half(16) << 16;
  }
  template <class>
  using Same = H;
};

template <class Op, class H, int kSources>
Handler single() {
  if constexpr (kSources == 1)
    return laneOperation<Op, H, H>;
  else if constexpr (kSources == 2)
    return laneOperation<Op, H, H, H>;
  else
    return laneOperation<Op, H, H, H, H>;
}

template <class Op, class H, int kSources>
Handler paired() {
  using P = Paired<Op, H>;
  if constexpr (kSources == 1)
    return laneOperation<P, uint32_t, uint32_t>;
  else if constexpr (kSources == 2)
    return laneOperation<P, uint32_t, uint32_t, uint32_t>;
  else
    return laneOperation<P, uint32_t, uint32_t, uint32_t, uint32_t>;
}

template <class Op, int kSources, class Fast = Op>
bool decodeAs(Instruction& in) {
  Handler handler = nullptr;
  switch (in.type()) {
    case Type::kF16:
      handler = in.op.flags == 0 ? single<Fast, Half, kSources>() : single<Op, Half, kSources>();
      break;
    case Type::kF16x2:
      handler = in.op.flags == 0 ? paired<Fast, Half, kSources>() : paired<Op, Half, kSources>();
      break;
    case Type::kBF16:
      handler = single<Op, Brain, kSources>();
      break;
    default:
      handler = paired<Op, Brain, kSources>();
  }
  const int bits = bitsOf(in.type());
  if constexpr (kSources == 1)
    return in.withSlots(handler, OpClass::kHalf, bits, {bits});
  else if constexpr (kSources == 2)
    return in.withSlots(handler, OpClass::kHalf, bits, {bits, bits});
  else
    return in.withSlots(handler, OpClass::kHalf, bits, {bits, bits, bits});
}

}  // namespace

bool decodeHalf(Instruction& in) {
  const std::string& name = in.name();
  const Type type = in.type();
  if (type != Type::kF16 && type != Type::kF16x2 && type != Type::kBF16 && type != Type::kBF16x2)
    return false;
  in.op.flags = static_cast<uint8_t>((in.has("ftz") ? kFlush : 0) | (in.has("sat") ? kSaturate : 0) |
                                     (in.has("NaN") ? kPropagateNaN : 0) | (in.has("relu") ? kRelu : 0));
  if (name == "add") return decodeAs<Add, 2, FastAdd>(in);
  if (name == "sub") return decodeAs<Sub, 2, FastSub>(in);
  if (name == "mul") return decodeAs<Mul, 2, FastMul>(in);
  if (name == "fma") return decodeAs<Fma, 3, FastFma>(in);
  if (name == "neg") return decodeAs<Negate, 1>(in);
  if (name == "abs") return decodeAs<Absolute, 1>(in);
  if (in.has("xorsign")) return false;
  if (name == "min") return decodeAs<Extreme<true>, 2>(in);
  if (name == "max") return decodeAs<Extreme<false>, 2>(in);
  if (name == "ex2") return decodeAs<Exp2, 1>(in);
  if (name == "tanh") return decodeAs<Tanh, 1>(in);
  return false;
}

}  // namespace slim::emulator
