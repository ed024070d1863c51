// mma.sync, ldmatrix, stmatrix. Fragments as the PTX ISA draws them: lane = 4 * group + t.
#include <cmath>
#include <cstring>

#include "decoder.h"
#include "lanes.h"
#include "memory_access.h"
#include "number_formats.h"

namespace slim::emulator {

namespace {

constexpr int kRows = 16, kColumns = 8, kMaxDepth = 32;

enum class Element : uint8_t { kHalf, kBrain, kTF32, kS8, kU8 };

bool isInteger(Element element) { return element >= Element::kS8; }
int perRegister(Element element) { return element == Element::kTF32 ? 1 : isInteger(element) ? 4 : 2; }

template <class Number>
Number elementOf(Element element, uint32_t word, int i) {
  switch (element) {
    case Element::kHalf:
      return static_cast<Number>(toFloat(Half{static_cast<uint16_t>(word >> (16 * i))}));
    case Element::kBrain:
      return static_cast<Number>(toFloat(Brain{static_cast<uint16_t>(word >> (16 * i))}));
    // The hardware looks at the upper 19 bits only.
    case Element::kTF32:
      return static_cast<Number>(std::bit_cast<float>(word & 0xffffe000u));
    case Element::kS8:
      return static_cast<Number>(static_cast<int8_t>(word >> (8 * i)));
    default:
      return static_cast<Number>(static_cast<uint8_t>(word >> (8 * i)));
  }
}

// The operands of one mma as matrices, from the registers of 32 lanes.
template <class Number>
struct Operands {
  Number a[kRows][kMaxDepth], b[kMaxDepth][kColumns];

  Operands(Warp& warp, const MicroOp& op, uint32_t firstA, uint32_t registersA, Element elementA,
           Element elementB) {
    const int n = perRegister(elementA);
    for (int lane = 0; lane < kLanes; lane++) {
      const int group = lane >> 2, t = lane & 3;
      for (uint32_t r = 0; r < registersA; r++) {
        const uint32_t word = warp.lanes<uint32_t>(op.slots[firstA + r])[lane];
        // Registers go down the rows first, then to the second half of the depth.
        for (int i = 0; i < n; i++)
          a[group + 8 * (r & 1)][t * n + i + (r >> 1) * 4 * n] = elementOf<Number>(elementA, word, i);
      }
      for (uint32_t r = 0; r < registersA / 2; r++) {
        const uint32_t word = warp.lanes<uint32_t>(op.slots[firstA + registersA + r])[lane];
        for (int i = 0; i < n; i++) b[t * n + i + r * 4 * n][group] = elementOf<Number>(elementB, word, i);
      }
    }
  }
};

bool wholeWarp(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (mask == kFullMask) return true;
  warp.report(op, mask, "warp-mask", kErrorLaunchFailed,
              "an instruction of the whole warp, executed by these lanes only");
  return false;
}

// op.mode: element of A; op.flags: element of B; op.count: registers of A; op.bytes: depth.
// The sum is taken in double and rounded once: hardware adds in an order and with bits that are not
// specified; it may differ by roundings of the size of the largest product.
template <bool kHalfAccumulator>
void runFloatMma(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (!wholeWarp(warp, op, mask)) return;
  constexpr uint32_t kResults = kHalfAccumulator ? 2 : 4;
  const auto element = static_cast<Element>(op.mode);
  const Operands<double> m(warp, op, kResults, op.count, element, static_cast<Element>(op.flags));
  const uint32_t* c = op.slots + kResults + op.count + op.count / 2;
  double sums[kRows][kColumns] = {};
  for (int row = 0; row < kRows; row++) {
    for (int k = 0; k < op.bytes; k++) {
      for (int column = 0; column < kColumns; column++) sums[row][column] += m.a[row][k] * m.b[k][column];
    }
  }
  for (int lane = 0; lane < kLanes; lane++) {
    const int group = lane >> 2, t = lane & 3;
    for (int half = 0; half < 2; half++) {
      const double* sum = sums[group + 8 * half] + 2 * t;
      if constexpr (kHalfAccumulator) {
        const uint32_t word = warp.lanes<uint32_t>(c[half])[lane];
        const Half low = toHalf(sum[0] + toFloat(Half{static_cast<uint16_t>(word)}));
        const Half high = toHalf(sum[1] + toFloat(Half{static_cast<uint16_t>(word >> 16)}));
        warp.lanes<uint32_t>(op.slots[half])[lane] = uint32_t{high.bits} << 16 | low.bits;
      } else {
        for (int i = 0; i < 2; i++) {
          const auto result = static_cast<float>(sum[i] + warp.lanes<float>(c[2 * half + i])[lane]);
          warp.lanes<float>(op.slots[2 * half + i])[lane] =
              std::isnan(result) ? std::bit_cast<float>(0x7fffffffu) : result;
        }
      }
    }
  }
}

// With .satfinite (op.offset 1) the sum saturates, else it wraps.
void runIntegerMma(Warp& warp, const MicroOp& op, uint32_t mask) {
  if (!wholeWarp(warp, op, mask)) return;
  const Operands<int32_t> m(warp, op, 4, op.count, static_cast<Element>(op.mode),
                            static_cast<Element>(op.flags));
  const uint32_t* c = op.slots + 4 + op.count + op.count / 2;
  for (int lane = 0; lane < kLanes; lane++) {
    for (int i = 0; i < 4; i++) {
      const int row = (lane >> 2) + 8 * (i >> 1), column = 2 * (lane & 3) + (i & 1);
      int64_t sum = warp.lanes<int32_t>(c[i])[lane];
      for (int k = 0; k < op.bytes; k++) sum += int64_t{m.a[row][k]} * m.b[k][column];
      if (op.offset != 0) sum = sum > INT32_MAX ? INT32_MAX : sum < INT32_MIN ? INT32_MIN : sum;
      warp.lanes<int32_t>(op.slots[i])[lane] = static_cast<int32_t>(sum);
    }
  }
}

bool elementNamed(Type type, Element& element) {
  switch (type) {
    case Type::kF16:
      element = Element::kHalf;
      return true;
    case Type::kBF16:
      element = Element::kBrain;
      return true;
    case Type::kTF32:
      element = Element::kTF32;
      return true;
    case Type::kS8:
      element = Element::kS8;
      return true;
    case Type::kU8:
      element = Element::kU8;
      return true;
    default:
      return false;
  }
}

struct Shape {
  const char* name;
  uint8_t depth;
};
constexpr Shape kShapes[] = {{"m16n8k4", 4}, {"m16n8k8", 8}, {"m16n8k16", 16}, {"m16n8k32", 32}};

bool decodeMma(Instruction& in) {
  Element a = Element::kHalf, b = Element::kHalf;
  const Shape* shape = nullptr;
  for (const Shape& known : kShapes) {
    if (in.has(known.name)) shape = &known;
  }
  // Types: result, A, B, accumulator.
  if (shape == nullptr || !in.has("row") || !in.has("col") || !elementNamed(in.type(1), a) ||
      !elementNamed(in.type(2), b)) {
    return in.fail(
        "this shape or type of mma is not emulated (m16n8k4, k8, k16, k32 of f16, bf16, tf32, s8, u8 are)");
  }
  const int registersA = shape->depth / perRegister(a) / 2;
  if (registersA != 2 && registersA != 4) return in.fail("this depth does not go with this type");
  in.op.mode = static_cast<uint8_t>(a);
  in.op.flags = static_cast<uint8_t>(b);
  in.op.count = static_cast<uint8_t>(registersA);
  in.op.bytes = shape->depth;
  in.op.offset = in.has("satfinite");
  const bool halfAccumulator = in.type(0) == Type::kF16;
  const size_t accumulators = halfAccumulator ? 2 : 4;
  const size_t counts[] = {accumulators, static_cast<size_t>(registersA), static_cast<size_t>(registersA / 2),
                           accumulators};
  size_t next = 0;
  for (size_t i = 0; i < 4; i++) {
    const Operand& operand = in.operand(i);
    const std::vector<Operand> elements =
        operand.kind == Operand::Kind::kVector ? operand.elements : std::vector<Operand>{operand};
    if (elements.size() != counts[i])
      return in.fail("operand " + std::to_string(i) + " should have " + std::to_string(counts[i]) +
                     " registers");
    for (const Operand& element : elements)
      in.op.slots[next++] = i == 0 ? in.destinationSlot(element, 32) : in.sourceSlot(element, 32);
  }
  const Handler handler = isInteger(a)      ? runIntegerMma
                          : halfAccumulator ? runFloatMma<true>
                                            : runFloatMma<false>;
  return in.become(handler, OpClass::kMatrix);
}

constexpr uint32_t kAddressSlot = 8;

// Matrices of 8 rows of 16 bytes; lanes 8m … 8m + 7 hold the addresses of matrix m's rows. flags 1: .trans.
bool matrixRows(Warp& warp, const MicroOp& op, Access access, uint8_t** rows) {
  uint64_t addresses[kLanes];
  gatherAddresses(warp, op, op.slots[kAddressSlot], addresses);
  const uint32_t lanes = op.count == 4 ? kFullMask : (1u << (8 * op.count)) - 1;
  return accessAnywhere(warp, op, lanes, addresses, 16, access, rows);
}

void elementPlace(const MicroOp& op, int lane, int i, int& row, int& column) {
  row = op.flags & 1 ? 2 * (lane & 3) + i : lane >> 2;
  column = op.flags & 1 ? lane >> 2 : 2 * (lane & 3) + i;
}

void runLoadMatrix(Warp& warp, const MicroOp& op, uint32_t mask) {
  uint8_t* rows[kLanes];
  if (!wholeWarp(warp, op, mask) || !matrixRows(warp, op, Access::kRead, rows)) return;
  uint32_t words[4][kLanes] = {};
  for (uint32_t m = 0; m < op.count; m++) {
    for (int lane = 0; lane < kLanes; lane++) {
      for (int i = 0; i < 2; i++) {
        int row, column;
        elementPlace(op, lane, i, row, column);
        uint16_t element;
        std::memcpy(&element, rows[8 * m + row] + 2 * column, 2);
        words[m][lane] |= uint32_t{element} << (16 * i);
      }
    }
  }
  for (uint32_t m = 0; m < op.count; m++)
    std::memcpy(warp.lanes<uint32_t>(op.slots[m]), words[m], sizeof words[m]);
}

void runStoreMatrix(Warp& warp, const MicroOp& op, uint32_t mask) {
  uint8_t* rows[kLanes];
  if (!wholeWarp(warp, op, mask) || !matrixRows(warp, op, Access::kWrite, rows)) return;
  for (uint32_t m = 0; m < op.count; m++) {
    for (int lane = 0; lane < kLanes; lane++) {
      for (int i = 0; i < 2; i++) {
        int row, column;
        elementPlace(op, lane, i, row, column);
        const auto element = static_cast<uint16_t>(warp.lanes<uint32_t>(op.slots[m])[lane] >> (16 * i));
        std::memcpy(rows[8 * m + row] + 2 * column, &element, 2);
      }
    }
  }
}

bool decodeMatrixMove(Instruction& in) {
  const bool load = in.name() == "ldmatrix";
  if (!in.has("m8n8") || in.type() != Type::kB16) return in.fail("only .m8n8 of .b16 is emulated");
  in.op.count = in.has("x4") ? 4 : in.has("x2") ? 2 : 1;
  in.op.flags = in.has("trans");
  in.op.space = spaceOf(in);
  const Operand& registers = in.operand(load ? 0 : 1);
  const std::vector<Operand> elements =
      registers.kind == Operand::Kind::kVector ? registers.elements : std::vector<Operand>{registers};
  if (elements.size() != in.op.count)
    return in.fail("expected " + std::to_string(in.op.count) + " registers");
  for (size_t i = 0; i < elements.size(); i++)
    in.op.slots[i] = load ? in.destinationSlot(elements[i], 32) : in.sourceSlot(elements[i], 32);
  in.address(in.operand(load ? 1 : 0), in.op.slots[kAddressSlot]);
  return in.become(load ? runLoadMatrix : runStoreMatrix, OpClass::kShared);
}

}  // namespace

bool decodeMatrix(Instruction& in) {
  if (in.name() == "mma")
    return in.has("sp") || in.has("sp::ordered_metadata") ? in.fail("sparse mma is not emulated")
                                                          : decodeMma(in);
  if (in.name() == "ldmatrix" || in.name() == "stmatrix") return decodeMatrixMove(in);
  return false;
}

}  // namespace slim::emulator
