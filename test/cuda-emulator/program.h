// A kernel made ready to run: a flat array of micro-operations whose operands are offsets into a warp's
// register file, so that executing one is an indirect call and a loop over 32 lanes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "syntax.h"

namespace slim::emulator {

class Warp;
struct MicroOp;
using Handler = void (*)(Warp&, const MicroOp&, uint32_t mask);

constexpr int kLanes = 32;
constexpr uint32_t kFullMask = 0xffffffffu;
constexpr uint32_t kNowhere = 0xffffffffu;  // a program counter that is never reached

// What an instruction is counted as (metrics.h names them in the report).
enum class OpClass : uint8_t {
  kInteger,
  kFloat32,
  kFloat64,
  kHalf,
  kConversion,
  kMove,
  kPredicate,
  kControl,
  kGlobal,
  kShared,
  kLocal,
  kParameter,
  kAtomic,
  kAsyncCopy,
  kMatrix,
  kShuffle,
  kBarrier,
  kCount,
};

struct MicroOp {
  Handler run = nullptr;
  int32_t guard = -1;  // predicate that masks it
  bool guardNegated = false;
  OpClass opClass = OpClass::kInteger;
  Space space = Space::kGeneric;
  uint8_t bytes = 0;        // of one element in memory
  uint8_t count = 1;        // elements of a vector access, matrices of an ldmatrix
  uint8_t mode = 0;         // rounding mode, comparison, truth table: what the handler says
  uint8_t flags = 0;        // what the handler says
  bool wideAddress = true;  // 64-bit address register
  uint32_t slots[20] = {};  // results first, then sources; offsets in 32-bit words, or predicates
  int64_t offset = 0;       // address displacement
  uint32_t target = kNowhere, reconverge = kNowhere;
  std::vector<uint32_t>* targets = nullptr;  // of brx
  uint32_t statement = 0;                    // index of the text for findings
};

enum class Special : uint8_t {
  kTidX,
  kTidY,
  kTidZ,
  kNtidX,
  kNtidY,
  kNtidZ,
  kCtaidX,
  kCtaidY,
  kCtaidZ,
  kNctaidX,
  kNctaidY,
  kNctaidZ,
  kLaneId,
  kWarpId,
  kWarps,
  kSmId,
  kSms,
  kGridId,
  kLanemaskEq,
  kLanemaskLt,
  kLanemaskLe,
  kLanemaskGt,
  kLanemaskGe,
  kDynamicShared,
  kTotalShared,
};

struct Constant {
  uint32_t slot;
  bool wide;
  uint64_t value;
};

struct SpecialSlot {
  uint32_t slot;
  bool wide;
  Special special;
};

struct SourceLine {
  int line;
  std::string text;
};

struct Program {
  std::string name;
  std::vector<MicroOp> code;
  std::vector<SourceLine> source;
  std::vector<std::vector<uint32_t>*> ownedTargets;
  std::vector<Constant> constants;
  std::vector<SpecialSlot> specials;
  uint32_t fileWords = 0;  // register file of a warp
  uint32_t predicates = 0;
  uint32_t paramBytes = 0, sharedBytes = 0, localBytes = 0;
  int maxThreads = 0;  // .maxntid, or 0
  Program() = default;
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program() {
    for (auto* list : ownedTargets) delete list;
  }
};

}  // namespace slim::emulator
