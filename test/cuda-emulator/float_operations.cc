// f32 and f64 arithmetic. IEEE operations round as asked; the approximate functions give the correctly
// rounded result, which lies within every bound that PTX states for them.
#include <cfenv>
#include <cmath>

#include "decoder.h"
#include "lanes.h"
#include "number_formats.h"

namespace slim::emulator {

namespace {

// MicroOp::flags
constexpr uint8_t kFlush = 1, kSaturate = 2, kPropagateNaN = 4, kUseAbs = 8;

template <class T>
T flush(T x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(T{0}, x) : x;
}

template <class T>
T saturate(T x) {
  return x > 0 ? (x < 1 ? x : T{1}) : T{0};  // NaN gives zero
}

struct Add {
  template <class T>
  T operator()(T a, T b) const {
    return a + b;
  }
};
struct Sub {
  template <class T>
  T operator()(T a, T b) const {
    return a - b;
  }
};
struct Mul {
  template <class T>
  T operator()(T a, T b) const {
    return a * b;
  }
};
struct Fma {
  template <class T>
  T operator()(T a, T b, T c) const {
    return std::fma(a, b, c);
  }
};
struct Div {
  template <class T>
  T operator()(T a, T b) const {
    return a / b;
  }
};
struct Reciprocal {
  template <class T>
  T operator()(T a) const {
    return T{1} / a;
  }
};
struct Root {
  template <class T>
  T operator()(T a) const {
    return std::sqrt(a);
  }
};
struct Negate {
  template <class T>
  T operator()(T a) const {
    return -a;
  }
};
struct Absolute {
  template <class T>
  T operator()(T a) const {
    return std::fabs(a);
  }
};
struct ReciprocalRoot {
  float operator()(float a) const { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(a))); }
  double operator()(double a) const {
    return static_cast<double>(1.0L / std::sqrt(static_cast<long double>(a)));
  }
};
struct Sine {
  float operator()(float a) const { return static_cast<float>(std::sin(static_cast<double>(a))); }
};
struct Cosine {
  float operator()(float a) const { return static_cast<float>(std::cos(static_cast<double>(a))); }
};
struct Log2 {
  float operator()(float a) const { return static_cast<float>(std::log2(static_cast<double>(a))); }
};
struct Exp2 {
  float operator()(float a) const { return static_cast<float>(std::exp2(static_cast<double>(a))); }
};
struct Tanh {
  float operator()(float a) const { return static_cast<float>(std::tanh(static_cast<double>(a))); }
};
struct CopySign {
  template <class T>
  T operator()(T a, T b) const {
    return std::copysign(b, a);
  }
};
// -0 is below +0; a NaN loses against a number unless .NaN asks to keep it.
template <bool kMin>
struct Extreme {
  template <class T>
  T operator()(const MicroOp& op, T a, T b) const {
    if (op.flags & kFlush) a = flush(a), b = flush(b);
    if (std::isnan(a) || std::isnan(b)) {
      if ((op.flags & kPropagateNaN) || (std::isnan(a) && std::isnan(b))) return quiet(T{});
      return std::isnan(a) ? b : a;
    }
    if (op.flags & kUseAbs) {
      const bool sign = std::signbit(a) != std::signbit(b);
      const T smaller = kMin ? std::fmin(std::fabs(a), std::fabs(b)) : std::fmax(std::fabs(a), std::fabs(b));
      return sign ? -smaller : smaller;
    }
    if (a == b) return std::signbit(a) == kMin ? a : b;
    return (a < b) == kMin ? a : b;
  }
  static float quiet(float) { return std::bit_cast<float>(0x7fffffffu); }
  static double quiet(double) { return std::bit_cast<double>(0x7fffffffffffffffull); }
};

// With .ftz or .sat.
template <class Op>
struct Modified {
  template <class T, class... Rest>
  T operator()(const MicroOp& op, T first, Rest... rest) const {
    const auto in = [&](T x) { return op.flags & kFlush ? flush(x) : x; };
    T result = Op{}(in(first), in(rest)...);
    if (op.flags & kFlush) result = flush(result);
    return op.flags & kSaturate ? saturate(result) : result;
  }
};

// A NaN that an operation makes is the canonical one, whatever the host's is.
template <class Op>
struct Canonical {
  template <class... T>
  float operator()(T... sources) const
    requires std::is_same_v<std::common_type_t<T...>,
                            float> {
    const float result = Op{}(sources...);
    return result == result ? result : std::bit_cast<float>(0x7fffffffu);
  }
  template <class... T>
  double operator()(T... sources) const
    requires std::is_same_v<std::common_type_t<T...>,
                            double> {
    return Op{}(sources...);
  }
};

// Scalar fma through libm is a call; where the machine has the instruction, 32 lanes are four of them.
__attribute__((target_clones("arch=haswell", "default"))) void fmaLanes(float* d, const float* a,
                                                                        const float* b, const float* c) {
#pragma GCC ivdep
  for (int lane = 0; lane < kLanes; lane++) {
    const float result = __builtin_fmaf(a[lane], b[lane], c[lane]);
    d[lane] = result == result ? result : __builtin_bit_cast(float, 0x7fffffffu);
  }
}

void runFma(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (mask != kFullMask) {
    laneOperation<Canonical<Fma>, float, float, float, float>(warp, op, mask);
    return;
  }
  fmaLanes(warp.lanes<float>(op.slots[0]), warp.lanes<float>(op.slots[1]), warp.lanes<float>(op.slots[2]),
           warp.lanes<float>(op.slots[3]));
}

// The host's rounding mode is set around the 32 lanes; this file is compiled with -frounding-math.
template <Handler handler>
void rounded(Warp& warp, const MicroOp& op, uint32_t mask) {
  static constexpr int kModes[] = {FE_TONEAREST, FE_TOWARDZERO, FE_DOWNWARD, FE_UPWARD};
  std::fesetround(kModes[op.mode]);
  handler(warp, op, mask);
  std::fesetround(FE_TONEAREST);
}

template <class Op, class T, int kSources>
constexpr Handler handlerFor() {
  if constexpr (kSources == 1)
    return laneOperation<Op, T, T>;
  else if constexpr (kSources == 2)
    return laneOperation<Op, T, T, T>;
  else
    return laneOperation<Op, T, T, T, T>;
}

template <class Op, class T, int kSources>
Handler pick(const MicroOp& op) {
  constexpr Handler kModified = handlerFor<Modified<Canonical<Op>>, T, kSources>();
  if (op.mode != 0) return rounded<kModified>;
  if (op.flags != 0) return kModified;
  if constexpr (std::is_same_v<Op, Fma> && std::is_same_v<T, float>) return runFma;
  return handlerFor<Canonical<Op>, T, kSources>();
}

template <class Op, int kSources>
bool decodeAs(Instruction& in) {
  const bool isDouble = in.type() == Type::kF64;
  const int bits = isDouble ? 64 : 32;
  const Handler handler = isDouble ? pick<Op, double, kSources>(in.op) : pick<Op, float, kSources>(in.op);
  const OpClass opClass = isDouble ? OpClass::kFloat64 : OpClass::kFloat32;
  if constexpr (kSources == 1)
    return in.withSlots(handler, opClass, bits, {bits});
  else if constexpr (kSources == 2)
    return in.withSlots(handler, opClass, bits, {bits, bits});
  else
    return in.withSlots(handler, opClass, bits, {bits, bits, bits});
}

template <class Op>
bool decodeFunction(Instruction& in) {
  return in.withSlots(handlerFor<Modified<Canonical<Op>>, float, 1>(), OpClass::kFloat32, 32, {32});
}

// testp: the class of a number. mode: finite, infinite, number, notanumber, normal, subnormal.
constexpr const char* kClasses[] = {"finite", "infinite", "number", "notanumber", "normal", "subnormal"};

template <class T>
void runTestClass(Warp& warp, const MicroOp& op, uint32_t mask) {
  forLanes(mask, [&](int lane) {
    const T x = warp.lanes<T>(op.slots[1])[lane];
    const bool results[] = {std::isfinite(x), std::isinf(x),
                            !std::isnan(x),   static_cast<bool>(std::isnan(x)),
                            std::isnormal(x), std::fpclassify(x) == FP_SUBNORMAL};
    uint32_t& out = warp.predicates[op.slots[0]];
    out = (out & ~(1u << lane)) | static_cast<uint32_t>(results[op.mode]) << lane;
  });
}

bool decodeTestClass(Instruction& in) {
  const bool isDouble = in.type() == Type::kF64;
  for (uint8_t i = 0; i < 6; i++) {
    if (in.has(kClasses[i])) in.op.mode = i;
  }
  in.op.slots[0] = in.predicate(in.operand(0));
  in.op.slots[1] = in.source(1, isDouble ? 64 : 32);
  return in.become(isDouble ? runTestClass<double> : runTestClass<float>, OpClass::kPredicate);
}

}  // namespace

bool decodeFloat(Instruction& in) {
  const std::string& name = in.name();
  if (in.type() != Type::kF32 && in.type() != Type::kF64) return false;
  if (name == "testp") return decodeTestClass(in);
  in.op.flags = static_cast<uint8_t>((in.has("ftz") ? kFlush : 0) | (in.has("sat") ? kSaturate : 0) |
                                     (in.has("NaN") ? kPropagateNaN : 0) | (in.has("xorsign") ? kUseAbs : 0));
  in.op.mode = in.has("rz") ? 1 : in.has("rm") ? 2 : in.has("rp") ? 3 : 0;
  if (name == "add") return decodeAs<Add, 2>(in);
  if (name == "sub") return decodeAs<Sub, 2>(in);
  if (name == "mul") return decodeAs<Mul, 2>(in);
  if (name == "fma" || name == "mad") return decodeAs<Fma, 3>(in);
  if (name == "div") return decodeAs<Div, 2>(in);
  if (name == "rcp") return decodeAs<Reciprocal, 1>(in);
  if (name == "sqrt") return decodeAs<Root, 1>(in);
  if (name == "rsqrt") return decodeAs<ReciprocalRoot, 1>(in);
  const bool isDouble = in.type() == Type::kF64;
  const int bits = isDouble ? 64 : 32;
  const OpClass opClass = isDouble ? OpClass::kFloat64 : OpClass::kFloat32;
  const bool plain = in.op.flags == 0;
  if (name == "neg" && plain)
    return in.withSlots(isDouble ? handlerFor<Negate, double, 1>() : handlerFor<Negate, float, 1>(), opClass,
                        bits, {bits});
  if (name == "abs" && plain)
    return in.withSlots(isDouble ? handlerFor<Absolute, double, 1>() : handlerFor<Absolute, float, 1>(),
                        opClass, bits, {bits});
  if (name == "neg") return decodeAs<Negate, 1>(in);
  if (name == "abs") return decodeAs<Absolute, 1>(in);
  if (name == "copysign")
    return in.withSlots(isDouble ? handlerFor<CopySign, double, 2>() : handlerFor<CopySign, float, 2>(),
                        opClass, bits, {bits, bits});
  if (name == "min" && in.operandCount() == 3)
    return in.withSlots(
        isDouble ? handlerFor<Extreme<true>, double, 2>() : handlerFor<Extreme<true>, float, 2>(), opClass,
        bits, {bits, bits});
  if (name == "max" && in.operandCount() == 3)
    return in.withSlots(
        isDouble ? handlerFor<Extreme<false>, double, 2>() : handlerFor<Extreme<false>, float, 2>(), opClass,
        bits, {bits, bits});
  if (isDouble) return false;
  if (name == "sin") return decodeFunction<Sine>(in);
  if (name == "cos") return decodeFunction<Cosine>(in);
  if (name == "lg2") return decodeFunction<Log2>(in);
  if (name == "ex2") return decodeFunction<Exp2>(in);
  if (name == "tanh") return decodeFunction<Tanh>(in);
  return false;
}

}  // namespace slim::emulator
