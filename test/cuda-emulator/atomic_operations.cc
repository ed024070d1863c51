// atom and red on global, shared and generic addresses. Lanes go one after another.
#include <cmath>
#include <cstring>

#include "decoder.h"
#include "lanes.h"
#include "memory_access.h"
#include "number_formats.h"

namespace slim::emulator {

namespace {

enum class Atomic : uint8_t {
  kAdd,
  kMin,
  kMax,
  kAnd,
  kOr,
  kXor,
  kExchange,
  kCompareSwap,
  kIncrement,
  kDecrement
};
constexpr const char* kNames[] = {"add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec"};

// MicroOp::flags
constexpr uint8_t kFence = 1;  // .acq_rel or .release

template <class T>
T addition(T a, T b) {
  if constexpr (std::is_integral_v<T>)
    return static_cast<T>(uint64_t(a) + uint64_t(b));
  else
    return a + b;
}
Half addition(Half a, Half b) { return nearestHalf(toFloat(a) + toFloat(b)); }
Brain addition(Brain a, Brain b) { return toBrain(double{toFloat(a)} + toFloat(b)); }

template <class T>
T applyInteger(Atomic atomic, T old, T value, T compare) {
  switch (atomic) {
    case Atomic::kAdd:
      return addition(old, value);
    case Atomic::kMin:
      return std::min(old, value);
    case Atomic::kMax:
      return std::max(old, value);
    case Atomic::kAnd:
      return old & value;
    case Atomic::kOr:
      return old | value;
    case Atomic::kXor:
      return old ^ value;
    case Atomic::kExchange:
      return value;
    // For cas the first source is what is compared and the second what is stored.
    case Atomic::kCompareSwap:
      return old == value ? compare : old;
    case Atomic::kIncrement:
      return old >= value ? T{0} : static_cast<T>(old + 1);
    default:
      return old == 0 || old > value ? value : static_cast<T>(old - 1);
  }
}

template <class T>
T apply(Atomic atomic, T old, T value, T third) {
  if constexpr (std::is_integral_v<T>)
    return applyInteger(atomic, old, value, third);
  else
    return addition(old, value);
}

template <class H>
struct Pair {
  H low, high;
};
template <class H>
Pair<H> addition(Pair<H> a, Pair<H> b) {
  return {addition(a.low, b.low), addition(a.high, b.high)};
}

// slots: result, address, value, third; red has a scratch result.
template <class T>
void runAtomic(Warp& warp, const MicroOp& op, uint32_t mask) {
  uint64_t addresses[kLanes];
  uint8_t* pointers[kLanes];
  gatherAddresses(warp, op, op.slots[1], addresses);
  if (op.flags & kFence) warp.cta->fenced = true;
  synchronizeCtas(warp, op, mask, addresses);
  if (!accessAnywhere(warp, op, mask, addresses, sizeof(T), Access::kAtomic, pointers)) return;
  forLanes(mask, [&](int lane) {
    T old;
    std::memcpy(&old, pointers[lane], sizeof old);
    const auto source = [&](int i) { return unpack<T>(warp.lanes<Word<T>>(op.slots[i])[lane]); };
    const T result = apply<T>(static_cast<Atomic>(op.mode), old, source(2), source(3));
    std::memcpy(pointers[lane], &result, sizeof result);
    warp.lanes<Word<T>>(op.slots[0])[lane] = pack<T>(old);
  });
}

Handler atomicFor(Type type) {
  switch (type) {
    case Type::kB16:
    case Type::kU16:
      return runAtomic<uint16_t>;
    case Type::kB32:
    case Type::kU32:
      return runAtomic<uint32_t>;
    case Type::kS32:
      return runAtomic<int32_t>;
    case Type::kB64:
    case Type::kU64:
      return runAtomic<uint64_t>;
    case Type::kS64:
      return runAtomic<int64_t>;
    case Type::kF32:
      return runAtomic<float>;
    case Type::kF64:
      return runAtomic<double>;
    case Type::kF16:
      return runAtomic<Half>;
    case Type::kBF16:
      return runAtomic<Brain>;
    case Type::kF16x2:
      return runAtomic<Pair<Half>>;
    case Type::kBF16x2:
      return runAtomic<Pair<Brain>>;
    default:
      return nullptr;
  }
}

void runFence(Warp& warp, const MicroOp&, uint32_t) { warp.cta->fenced = true; }

void runNoFence(Warp&, const MicroOp&, uint32_t) {}

}  // namespace

bool decodeAtomic(Instruction& in) {
  const std::string& name = in.name();
  if (name == "membar" || name == "fence") {
    const bool wide = in.has("gl") || in.has("sys") || in.has("gpu");
    return in.become(wide ? runFence : runNoFence, OpClass::kBarrier);
  }
  if (name != "atom" && name != "red") return false;
  if (in.has("async")) return false;
  const Type type = in.type();
  bool known = false;
  for (uint8_t i = 0; i < std::size(kNames); i++) {
    if (!in.has(kNames[i])) continue;
    in.op.mode = i;
    known = true;
  }
  if (!known) return in.fail("an atomic operation that the emulator does not know");
  if (isFloat(type) && static_cast<Atomic>(in.op.mode) != Atomic::kAdd)
    return in.fail("of floats, only the atomic addition is emulated");
  const size_t first = name == "atom" ? 1 : 0;
  const int bits = bitsOf(type);
  in.op.space = spaceOf(in);
  in.op.flags = in.has("acq_rel") || in.has("release") ? kFence : 0;
  in.op.slots[0] = first == 1 ? in.destination(0, bits) : in.scratch();
  in.address(in.operand(first), in.op.slots[1]);
  in.op.slots[2] = in.op.slots[3] = in.source(first + 1, bits);
  if (static_cast<Atomic>(in.op.mode) == Atomic::kCompareSwap) in.op.slots[3] = in.source(first + 2, bits);
  return in.become(atomicFor(type), OpClass::kAtomic);
}

}  // namespace slim::emulator
