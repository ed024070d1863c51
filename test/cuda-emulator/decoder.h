// From parsed statements to the micro-operations of a kernel. Each file of operations claims the instructions
// it knows; what none of them claims is an error that names it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "program.h"
#include "syntax.h"

namespace slim::emulator {

// Addresses of the module's variables on the device it was loaded on.
using VariableAddresses = std::map<std::string, uint64_t>;

// Makes a kernel and the functions it calls ready to run. Returns an empty string, or what it cannot run.
std::string decodeKernel(const Module& module, const std::string& name, const VariableAddresses& addresses,
                         Program& program);

class ProgramBuilder;

// A statement being decoded: its opcode's parts, its operands as slots, and the micro-operation that results.
class Instruction {
 public:
  Instruction(ProgramBuilder& builder, const Statement& statement);

  const std::string& name() const { return statement.opcode[0]; }
  // Whether the opcode has this part; the parts asked for count as understood.
  bool has(const std::string& part) const;
  // The n-th of the opcode's parts that are types; counted from the end when negative.
  Type type(int n = -1) const;
  size_t operandCount() const { return statement.operands.size(); }
  const Operand& operand(size_t i);

  // Slots of the register file (32-bit words, or 64-bit when bits is 64), and of predicates.
  uint32_t source(size_t i, int bits) { return sourceSlot(operand(i), bits); }
  uint32_t destination(size_t i, int bits) { return destinationSlot(operand(i), bits); }
  uint32_t sourceSlot(const Operand& operand, int bits);
  uint32_t destinationSlot(const Operand& operand, int bits);
  uint32_t predicate(const Operand& operand);
  // A predicate that is read: with its "!", and 0 and 1 as constants.
  uint32_t sourcePredicate(const Operand& operand, bool& negated);
  uint32_t constant(uint64_t value, int bits);
  uint32_t scratch();
  // Bits of a register as declared; 0 for other operands.
  int declaredBits(const Operand& operand) const;
  bool isWide(const Operand& operand) const { return declaredBits(operand) == 64; }
  bool immediate(size_t i, uint64_t& value);
  // Fills the base slot and the displacement of an address operand; may settle the space of a .param access.
  void address(const Operand& operand, uint32_t& slot);

  // Claims the instruction: a handler and slots for a result and sources of these widths.
  bool become(Handler handler, OpClass opClass);
  bool withSlots(Handler handler, OpClass opClass, int resultBits, std::initializer_list<int> sourceBits);
  bool fail(const std::string& what);
  // A part of the opcode that no decoder asked for and that may not be ignored; empty when there is none.
  std::string unknownPart() const;
  // For hints, which do nothing whatever their parts are.
  void ignoreParts() { understood_.assign(understood_.size(), true); }

  ProgramBuilder& builder;
  const Statement& statement;
  MicroOp op;
  std::string error;

 private:
  std::vector<Type> types_;
  mutable std::vector<bool> understood_;  // of the opcode's parts
};

// The files of operations: true when the instruction is theirs (rightly decoded, or with an error).
bool decodeInteger(Instruction& instruction);
bool decodeBits(Instruction& instruction);
bool decodeFloat(Instruction& instruction);
bool decodeHalf(Instruction& instruction);
bool decodeConversion(Instruction& instruction);
bool decodeComparison(Instruction& instruction);
bool decodeMove(Instruction& instruction);
bool decodeControl(Instruction& instruction);
bool decodeWarpWide(Instruction& instruction);
bool decodeMemory(Instruction& instruction);
bool decodeAsyncCopy(Instruction& instruction);
bool decodeAtomic(Instruction& instruction);
bool decodeMatrix(Instruction& instruction);

class ProgramBuilder {
 public:
  ProgramBuilder(const Module& module, const VariableAddresses& addresses, Program& program);
  std::string build(const std::string& kernel);

  // For Instruction and the decoders of control flow.
  uint32_t allocate(int bits);
  uint32_t constant(uint64_t value, int bits);
  uint32_t special(Special special, int bits);
  uint32_t registerSlot(int index) const { return current_->registerSlots[index]; }
  bool isPredicate(int index) const { return current_->function->registers[index].type == Type::kPred; }
  Type registerType(int index) const { return current_->function->registers[index].type; }
  const Function& function() const { return *current_->function; }
  const Variable& variable(int index) const { return current_->function->variables[index]; }
  // The address of a variable in its space, and the space that it lies in here.
  bool variableAddress(const Operand& operand, uint64_t& address, Space& space);
  void emit(const MicroOp& op) { program.code.push_back(op); }
  uint32_t sinkPredicate() const { return 0; }
  uint32_t falsePredicate() const { return 1; }
  // A label's statement is known only when the whole function is decoded.
  void branchTo(const std::string& label, const Statement& statement, std::function<void(uint32_t)> set);
  const Function* calledFunction(const std::string& name) const;
  uint64_t parameterOffset(const std::string& function, int variable) const;
  void callTo(const std::string& function, uint32_t at) { calls_.push_back({function, at}); }

  Program& program;

 private:
  struct FunctionState {
    const Function* function = nullptr;
    std::vector<uint32_t> registerSlots;
    std::vector<uint64_t> variableOffsets;
    uint32_t begin = 0, end = 0;
  };
  struct Branch {
    std::string label;
    int scope;
    std::function<void(uint32_t)> set;
    int line;
  };

  std::string collect(const std::string& name, std::vector<std::string>& path);
  void layOut(FunctionState& state);
  void useShared(const Function& function);
  std::string decodeFunction(FunctionState& state);

  const Module& module_;
  const VariableAddresses& addresses_;
  std::vector<std::string> order_;
  std::map<std::string, FunctionState> functions_;
  FunctionState* current_ = nullptr;
  std::map<std::pair<uint64_t, bool>, uint32_t> constants_;
  std::map<std::pair<Special, bool>, uint32_t> specials_;
  std::map<std::string, uint64_t> moduleShared_;
  std::vector<Branch> branches_;
  std::vector<std::pair<std::string, uint32_t>> calls_;
};

// Sets the reconvergence point of every branch of a function's code (control_flow.cc).
void setReconvergence(Program& program, uint32_t begin, uint32_t end);

}  // namespace slim::emulator
