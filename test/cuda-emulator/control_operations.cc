// Branches, calls and returns.
#include "decoder.h"
#include "launch.h"
#include "operations.h"

namespace slim::emulator {

namespace {

void runBranch(Warp& warp, const MicroOp& op, uint32_t taken) {
  StackEntry& entry = warp.top();
  const uint32_t others = entry.mask & ~taken;
  if (others == 0) {
    entry.pc = op.target;
    return;
  }
  const uint32_t fallThrough = entry.pc;
  // An entry that itself ends at the meeting point need not stay below to wait there.
  if (entry.reconverge == op.reconverge && !entry.isCall) {
    entry.mask = others;
  } else {
    entry.pc = op.reconverge;
    warp.stack.push_back({fallThrough, op.reconverge, others});
  }
  warp.stack.push_back({op.target, op.reconverge, taken});
}

// brx.idx: lanes by the index in a register; lanes of the same target stay together.
void runIndexedBranch(Warp& warp, const MicroOp& op, uint32_t mask) {
  const uint32_t* index = warp.lanes<uint32_t>(op.slots[0]);
  const StackEntry entry = warp.top();
  warp.top().pc = op.reconverge;
  if ((entry.mask & ~mask) != 0) warp.stack.push_back({entry.pc, op.reconverge, entry.mask & ~mask});
  for (uint32_t left = mask; left != 0;) {
    const uint32_t chosen = index[__builtin_ctz(left)];
    uint32_t together = 0;
    for (uint32_t lane = 0; lane < kLanes; lane++)
      together |= (left >> lane & 1 && index[lane] == chosen) << lane;
    left &= ~together;
    if (chosen >= op.targets->size()) {
      warp.report(op, together, "branch-index", kErrorLaunchFailed,
                  "index " + std::to_string(chosen) + " of a table of " + std::to_string(op.targets->size()) +
                      " targets");
      return;
    }
    warp.stack.push_back({(*op.targets)[chosen], op.reconverge, together});
  }
}

void runCall(Warp& warp, const MicroOp& op, uint32_t mask) {
  warp.stack.push_back({op.target, kNowhere, mask, true});
}

void runReturn(Warp& warp, const MicroOp&, uint32_t mask) { warp.removeLanes(mask, true); }

void runExit(Warp& warp, const MicroOp&, uint32_t mask) { warp.removeLanes(mask, false); }

void runTrap(Warp& warp, const MicroOp& op, uint32_t mask) {
  warp.report(op, mask, "trap", kErrorLaunchFailed, "trap");
}

// Parameters and results of a call are copied between the places of caller and function in local memory.
void runCopyLocal(Warp& warp, const MicroOp& op, uint32_t mask) {
  const size_t stride = warp.local.size() / kLanes;
  for (uint32_t lane = 0; lane < kLanes; lane++) {
    if (!(mask >> lane & 1)) continue;
    uint8_t* local = warp.local.data() + lane * stride;
    std::copy_n(local + op.slots[1], op.slots[2], local + op.slots[0]);
  }
}

bool decodeCall(Instruction& in) {
  std::vector<const Operand*> lists;
  const Operand* callee = nullptr;
  size_t results = 0;
  for (const Operand& operand : in.statement.operands) {
    if (operand.kind == Operand::Kind::kList) {
      if (callee == nullptr) results = 1;
      lists.push_back(&operand);
    } else if (callee == nullptr) {
      callee = &operand;
    }
  }
  const Function* function = callee == nullptr ? nullptr : in.builder.calledFunction(callee->name);
  if (function == nullptr) return in.fail("a call through a pointer is not emulated");
  const auto copy = [&](const Operand& here, int there, bool toFunction) {
    uint64_t address;
    Space space;
    if (!in.builder.variableAddress(here, address, space)) return;
    MicroOp move = in.op;
    move.run = runCopyLocal;
    move.opClass = OpClass::kParameter;
    const auto other = static_cast<uint32_t>(in.builder.parameterOffset(function->name, there));
    move.slots[0] = toFunction ? other : static_cast<uint32_t>(address);
    move.slots[1] = toFunction ? static_cast<uint32_t>(address) : other;
    move.slots[2] = static_cast<uint32_t>(function->variables[there].bytes());
    in.builder.emit(move);
  };
  if (lists.size() > results) {
    const std::vector<Operand>& given = lists[results]->elements;
    if (given.size() != function->parameters.size())
      return in.fail("a call with another number of arguments");
    for (size_t i = 0; i < given.size(); i++) copy(given[i], function->parameters[i], true);
  }
  MicroOp call = in.op;
  call.run = runCall;
  call.opClass = OpClass::kControl;
  in.builder.callTo(function->name, static_cast<uint32_t>(in.builder.program.code.size()));
  in.builder.emit(call);
  if (results != 0) {
    for (size_t i = 0; i < lists[0]->elements.size(); i++)
      copy(lists[0]->elements[i], function->results[i], false);
  }
  return true;
}

}  // namespace

bool isReturn(const MicroOp& op) { return op.run == runReturn || op.run == runExit || op.run == runTrap; }

bool isCall(const MicroOp& op) { return op.run == runCall; }

bool decodeControl(Instruction& in) {
  const std::string& name = in.name();
  if (name == "bra") {
    const auto at = static_cast<uint32_t>(in.builder.program.code.size());
    Program& program = in.builder.program;
    in.builder.branchTo(in.operand(0).name, in.statement,
                        [&program, at](uint32_t pc) { program.code[at].target = pc; });
    return in.become(runBranch, OpClass::kControl);
  }
  if (name == "brx") {
    in.op.slots[0] = in.source(0, 32);
    in.op.targets = new std::vector<uint32_t>;
    in.builder.program.ownedTargets.push_back(in.op.targets);
    const auto& tables = in.builder.function().branchTargets;
    const auto table = tables.find(in.operand(1).name);
    if (table == tables.end()) return in.fail("no table " + in.operand(1).name);
    in.op.targets->resize(table->second.size());
    for (size_t i = 0; i < table->second.size(); i++) {
      uint32_t* entry = in.op.targets->data() + i;
      in.builder.branchTo(table->second[i], in.statement, [entry](uint32_t pc) { *entry = pc; });
    }
    return in.become(runIndexedBranch, OpClass::kControl);
  }
  if (name == "call") return decodeCall(in);
  if (name == "ret") return in.become(runReturn, OpClass::kControl);
  if (name == "exit") return in.become(runExit, OpClass::kControl);
  if (name == "trap") return in.become(runTrap, OpClass::kControl);
  return false;
}

}  // namespace slim::emulator
