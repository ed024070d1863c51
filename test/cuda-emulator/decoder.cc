#include "decoder.h"

#include <algorithm>
#include <bit>

namespace slim::emulator {

namespace {

using Decode = bool (*)(Instruction&);
constexpr Decode kDecoders[] = {decodeInteger,    decodeBits,       decodeFloat,     decodeHalf,
                                decodeConversion, decodeComparison, decodeMove,      decodeControl,
                                decodeWarpWide,   decodeMemory,     decodeAsyncCopy, decodeAtomic,
                                decodeMatrix};

// Parts of opcodes that change nothing here, or that say what is done where nothing else is said.
constexpr const char* kHarmless[] = {
    "sync",    "aligned", "uni", "idx",   "rn",   "approx", "full",   "lo",    "any",
    "wrap",    "r",       "or",  "noftz", "weak", "cta",    "gpu",    "sys",   "relaxed",
    "acquire", "sc",      "ca",  "cg",    "cs",   "lu",     "cv",     "wb",    "wt",
    "nc",      "v2",      "v4",  "x1",    "abs",  "global", "shared", "const", "shared::cta"};

struct SpecialName {
  const char* name;
  Special special;
};

constexpr SpecialName kSpecials[] = {
    {"%tid.x", Special::kTidX},
    {"%tid.y", Special::kTidY},
    {"%tid.z", Special::kTidZ},
    {"%ntid.x", Special::kNtidX},
    {"%ntid.y", Special::kNtidY},
    {"%ntid.z", Special::kNtidZ},
    {"%ctaid.x", Special::kCtaidX},
    {"%ctaid.y", Special::kCtaidY},
    {"%ctaid.z", Special::kCtaidZ},
    {"%nctaid.x", Special::kNctaidX},
    {"%nctaid.y", Special::kNctaidY},
    {"%nctaid.z", Special::kNctaidZ},
    {"%laneid", Special::kLaneId},
    {"%warpid", Special::kWarpId},
    {"%nwarpid", Special::kWarps},
    {"%smid", Special::kSmId},
    {"%nsmid", Special::kSms},
    {"%gridid", Special::kGridId},
    {"%lanemask_eq", Special::kLanemaskEq},
    {"%lanemask_lt", Special::kLanemaskLt},
    {"%lanemask_le", Special::kLanemaskLe},
    {"%lanemask_gt", Special::kLanemaskGt},
    {"%lanemask_ge", Special::kLanemaskGe},
    {"%dynamic_smem_size", Special::kDynamicShared},
    {"%total_smem_size", Special::kTotalShared},
};

const SpecialName* specialNamed(const std::string& name) {
  const auto* found = std::find_if(std::begin(kSpecials), std::end(kSpecials),
                                   [&](const SpecialName& known) { return name == known.name; });
  return found == std::end(kSpecials) ? nullptr : found;
}

uint64_t alignUp(uint64_t value, uint64_t align) { return (value + align - 1) / align * align; }

const std::string* calledName(const Statement& statement) {
  if (statement.opcode[0] != "call") return nullptr;
  for (const Operand& operand : statement.operands) {
    if (operand.kind == Operand::Kind::kName) return &operand.name;
  }
  return nullptr;
}

}  // namespace

std::string decodeKernel(const Module& module, const std::string& name, const VariableAddresses& addresses,
                         Program& program) {
  return ProgramBuilder(module, addresses, program).build(name);
}

Instruction::Instruction(ProgramBuilder& builder, const Statement& statement)
    : builder(builder), statement(statement), understood_(statement.opcode.size()) {
  for (size_t i = 1; i < statement.opcode.size(); i++) {
    const Type type = typeNamed(statement.opcode[i]);
    if (type != Type::kNone) types_.push_back(type);
    understood_[i] = type != Type::kNone;
  }
  op.guard = statement.guard < 0 ? -1 : static_cast<int32_t>(builder.registerSlot(statement.guard));
  op.guardNegated = statement.guardNegated;
}

bool Instruction::has(const std::string& part) const {
  bool found = false;
  for (size_t i = 1; i < statement.opcode.size(); i++) {
    if (statement.opcode[i] != part) continue;
    understood_[i] = true;
    found = true;
  }
  return found;
}

std::string Instruction::unknownPart() const {
  for (size_t i = 1; i < statement.opcode.size(); i++) {
    const std::string& part = statement.opcode[i];
    const bool isCacheHint = part.starts_with("L1::") || part.starts_with("L2::");
    if (understood_[i] || isCacheHint ||
        std::find(std::begin(kHarmless), std::end(kHarmless), part) != std::end(kHarmless)) {
      continue;
    }
    return part;
  }
  return "";
}

Type Instruction::type(int n) const {
  const int index = n < 0 ? static_cast<int>(types_.size()) + n : n;
  return index < 0 || index >= static_cast<int>(types_.size()) ? Type::kNone : types_[index];
}

const Operand& Instruction::operand(size_t i) {
  static const Operand kMissing;
  if (i < statement.operands.size()) return statement.operands[i];
  fail("expected at least " + std::to_string(i + 1) + " operands");
  return kMissing;
}

int Instruction::declaredBits(const Operand& operand) const {
  return operand.kind == Operand::Kind::kRegister ? bitsOf(builder.registerType(operand.index)) : 0;
}

uint32_t Instruction::sourceSlot(const Operand& operand, int bits) {
  switch (operand.kind) {
    case Operand::Kind::kRegister:
      if (builder.isPredicate(operand.index)) {
        fail("a predicate where a register of " + std::to_string(bits) + " bits is expected");
      } else if ((declaredBits(operand) == 64) != (bits == 64)) {
        fail(operand.name + " has " + std::to_string(declaredBits(operand)) + " bits where " +
             std::to_string(bits) + " are expected");
      }
      return builder.registerSlot(operand.index);
    case Operand::Kind::kImmediate: {
      uint64_t value = operand.value;
      if (operand.isFloatBits && operand.offset == 64 && bits == 32) {
        value = std::bit_cast<uint32_t>(static_cast<float>(std::bit_cast<double>(value)));
      } else if (operand.isFloatBits && operand.offset == 32 && bits == 64) {
        value =
            std::bit_cast<uint64_t>(static_cast<double>(std::bit_cast<float>(static_cast<uint32_t>(value))));
      }
      return constant(value, bits);
    }
    case Operand::Kind::kVariable:
    case Operand::Kind::kName: {
      if (operand.name == "WARP_SZ") return constant(kLanes, bits);
      if (const SpecialName* known = specialNamed(operand.name)) return builder.special(known->special, bits);
      uint64_t address;
      Space space;
      if (!builder.variableAddress(operand, address, space)) {
        fail("unknown name " + operand.name);
        return 0;
      }
      return constant(address, bits);
    }
    default:
      fail("a register or a number expected");
      return 0;
  }
}

uint32_t Instruction::destinationSlot(const Operand& operand, int bits) {
  if (operand.kind == Operand::Kind::kSink) return scratch();
  if (operand.kind != Operand::Kind::kRegister) {
    fail("a register expected for the result");
    return 0;
  }
  return sourceSlot(operand, bits);
}

uint32_t Instruction::predicate(const Operand& operand) {
  if (operand.kind == Operand::Kind::kSink) return builder.sinkPredicate();
  if (operand.kind != Operand::Kind::kRegister || !builder.isPredicate(operand.index)) {
    fail("a predicate expected");
    return 0;
  }
  return builder.registerSlot(operand.index);
}

uint32_t Instruction::sourcePredicate(const Operand& operand, bool& negated) {
  negated = operand.negated;
  if (operand.kind != Operand::Kind::kImmediate) return predicate(operand);
  negated ^= operand.value != 0;
  return builder.falsePredicate();
}

uint32_t Instruction::constant(uint64_t value, int bits) { return builder.constant(value, bits); }

uint32_t Instruction::scratch() { return builder.allocate(64); }

bool Instruction::immediate(size_t i, uint64_t& value) {
  if (i >= operandCount() || operand(i).kind != Operand::Kind::kImmediate) return false;
  value = operand(i).value;
  return true;
}

void Instruction::address(const Operand& operand, uint32_t& slot) {
  if (operand.kind != Operand::Kind::kAddress) {
    fail("an address expected");
    return;
  }
  const Operand& base = operand.elements[0];
  op.offset = operand.offset;
  if (base.kind == Operand::Kind::kRegister) {
    op.wideAddress = declaredBits(base) == 64;
    slot = sourceSlot(base, op.wideAddress ? 64 : 32);
    return;
  }
  op.wideAddress = true;
  if (base.kind == Operand::Kind::kImmediate) {
    op.offset = 0;
    slot = constant(base.value + static_cast<uint64_t>(operand.offset), 64);
    return;
  }
  uint64_t address;
  Space space;
  if (!builder.variableAddress(base, address, space)) {
    fail("unknown name " + base.name);
    return;
  }
  if (op.space == Space::kParam) op.space = space;
  // variableAddress has counted the name's own offset, which is also in the operand's.
  op.offset = operand.offset - base.offset;
  slot = constant(address, 64);
}

bool Instruction::become(Handler handler, OpClass opClass) {
  op.run = handler;
  op.opClass = opClass;
  if (handler == nullptr) fail("not an instruction that the emulator knows");
  return true;
}

bool Instruction::withSlots(Handler handler, OpClass opClass, int resultBits,
                            std::initializer_list<int> sourceBits) {
  if (resultBits == 0) return fail("a type that the emulator does not know");
  op.slots[0] = destination(0, resultBits);
  size_t i = 1;
  for (const int bits : sourceBits) {
    op.slots[i] = source(i, bits);
    i++;
  }
  return become(handler, opClass);
}

bool Instruction::fail(const std::string& what) {
  if (error.empty()) error = what;
  return true;
}

ProgramBuilder::ProgramBuilder(const Module& module, const VariableAddresses& addresses, Program& program)
    : program(program), module_(module), addresses_(addresses) {
  program.predicates = 2;  // predicate 0 takes what is thrown away, nothing writes predicate 1
}

uint32_t ProgramBuilder::allocate(int bits) {
  // Slots of 64-bit registers are aligned as their type wants: 32 lanes of either width keep that.
  const uint32_t slot = program.fileWords;
  program.fileWords += bits == 64 ? 2 * kLanes : kLanes;
  return slot;
}

uint32_t ProgramBuilder::constant(uint64_t value, int bits) {
  if (bits < 64) value &= (uint64_t{1} << bits) - 1;
  const auto [entry, isNew] = constants_.try_emplace({value, bits == 64}, 0);
  if (isNew) {
    entry->second = allocate(bits);
    program.constants.push_back({entry->second, bits == 64, value});
  }
  return entry->second;
}

uint32_t ProgramBuilder::special(Special special, int bits) {
  const auto [entry, isNew] = specials_.try_emplace({special, bits == 64}, 0);
  if (isNew) {
    entry->second = allocate(bits);
    program.specials.push_back({entry->second, bits == 64, special});
  }
  return entry->second;
}

bool ProgramBuilder::variableAddress(const Operand& operand, uint64_t& address, Space& space) {
  if (operand.kind == Operand::Kind::kVariable) {
    address = current_->variableOffsets[operand.index] + static_cast<uint64_t>(operand.offset);
    const Function& function = *current_->function;
    space = function.variables[operand.index].space;
    // Only the kernel's own parameters are in parameter space; those of calls lie in the thread's local
    // memory.
    const bool own = std::find(function.parameters.begin(), function.parameters.end(), operand.index) !=
                     function.parameters.end();
    if (space == Space::kParam && !(function.isEntry && own)) space = Space::kLocal;
    return true;
  }
  if (const auto shared = moduleShared_.find(operand.name); shared != moduleShared_.end()) {
    space = Space::kShared;
    address = shared->second + static_cast<uint64_t>(operand.offset);
    return true;
  }
  const auto found = addresses_.find(operand.name);
  if (found == addresses_.end()) return false;
  space = Space::kGlobal;
  address = found->second + static_cast<uint64_t>(operand.offset);
  return true;
}

void ProgramBuilder::branchTo(const std::string& label, const Statement& statement,
                              std::function<void(uint32_t)> set) {
  branches_.push_back({label, statement.scope, std::move(set), statement.line});
}

const Function* ProgramBuilder::calledFunction(const std::string& name) const {
  const auto found = functions_.find(name);
  return found == functions_.end() ? nullptr : found->second.function;
}

uint64_t ProgramBuilder::parameterOffset(const std::string& function, int variable) const {
  return functions_.at(function).variableOffsets[variable];
}

std::string ProgramBuilder::collect(const std::string& name, std::vector<std::string>& path) {
  if (std::find(path.begin(), path.end(), name) != path.end())
    return "recursion through " + name + " is not emulated";
  const auto found = module_.functions.find(name);
  if (found == module_.functions.end() || !found->second.hasBody) {
    return "the function " + name + " has no body in the module (device printf and malloc are not emulated)";
  }
  path.push_back(name);
  if (!functions_.contains(name)) {
    order_.push_back(name);
    functions_[name].function = &found->second;
  }
  for (const Statement& statement : found->second.statements) {
    if (const std::string* called = calledName(statement)) {
      const std::string error = collect(*called, path);
      if (!error.empty()) return error;
    }
  }
  path.pop_back();
  return "";
}

void ProgramBuilder::useShared(const Function& function) {
  const std::function<void(const Operand&)> use = [&](const Operand& operand) {
    for (const Operand& element : operand.elements) use(element);
    if (operand.kind != Operand::Kind::kName || moduleShared_.contains(operand.name)) return;
    const auto found = module_.variables.find(operand.name);
    if (found == module_.variables.end() || found->second.space != Space::kShared) return;
    if (found->second.elements == 0) {
      moduleShared_[operand.name] = 0;
      return;
    }
    program.sharedBytes = static_cast<uint32_t>(alignUp(program.sharedBytes, found->second.align));
    moduleShared_[operand.name] = program.sharedBytes;
    program.sharedBytes += static_cast<uint32_t>(found->second.bytes());
  };
  for (const Statement& statement : function.statements) {
    for (const Operand& operand : statement.operands) use(operand);
  }
}

void ProgramBuilder::layOut(FunctionState& state) {
  const Function& function = *state.function;
  for (const RegisterDeclaration& declared : function.registers) {
    state.registerSlots.push_back(declared.type == Type::kPred ? program.predicates++
                                                               : allocate(bitsOf(declared.type)));
  }
  for (size_t i = 0; i < function.variables.size(); i++) {
    const Variable& variable = function.variables[i];
    const bool own =
        std::find(function.parameters.begin(), function.parameters.end(), i) != function.parameters.end();
    uint32_t& bytes = variable.space == Space::kShared ? program.sharedBytes
                      : function.isEntry && own        ? program.paramBytes
                                                       : program.localBytes;
    bytes = static_cast<uint32_t>(alignUp(bytes, variable.align));
    state.variableOffsets.push_back(bytes);
    bytes += static_cast<uint32_t>(variable.bytes());
  }
}

std::string ProgramBuilder::decodeFunction(FunctionState& state) {
  current_ = &state;
  state.begin = static_cast<uint32_t>(program.code.size());
  std::vector<uint32_t> counters;  // of each statement's first micro-operation
  for (const Statement& statement : state.function->statements) {
    counters.push_back(static_cast<uint32_t>(program.code.size()));
    Instruction instruction(*this, statement);
    instruction.op.statement = static_cast<uint32_t>(program.source.size());
    program.source.push_back({statement.line, statement.text});
    const bool known = std::any_of(std::begin(kDecoders), std::end(kDecoders),
                                   [&](Decode decode) { return decode(instruction); });
    if (!known || !instruction.error.empty()) {
      return "PTX line " + std::to_string(statement.line) + " `" + statement.text +
             "`: " + (known ? instruction.error : "the emulator does not know this instruction");
    }
    if (const std::string part = instruction.unknownPart(); !part.empty()) {
      return "PTX line " + std::to_string(statement.line) + " `" + statement.text +
             "`: the emulator does not know this instruction with ." + part;
    }
    if (instruction.op.run != nullptr) emit(instruction.op);
  }
  counters.push_back(static_cast<uint32_t>(program.code.size()));
  // Every function ends in ret, but a label may stand after it.
  static const Statement kEnd = [] {
    Statement end;
    end.opcode = {"ret"};
    end.text = "(end of the function)";
    return end;
  }();
  Instruction end(*this, kEnd);
  decodeControl(end);
  end.op.statement = static_cast<uint32_t>(program.source.size());
  program.source.push_back({0, kEnd.text});
  emit(end.op);
  state.end = static_cast<uint32_t>(program.code.size());

  for (const Branch& branch : branches_) {
    int scope = branch.scope;
    auto found = state.function->labels.end();
    for (; scope >= 0 && found == state.function->labels.end(); scope = state.function->scopeParent[scope]) {
      found = state.function->labels.find({scope, branch.label});
    }
    if (found == state.function->labels.end()) {
      return "PTX line " + std::to_string(branch.line) + ": no label " + branch.label;
    }
    branch.set(counters[found->second]);
  }
  branches_.clear();
  setReconvergence(program, state.begin, state.end);
  return "";
}

std::string ProgramBuilder::build(const std::string& kernel) {
  std::vector<std::string> path;
  std::string error = collect(kernel, path);
  if (!error.empty()) return "kernel " + kernel + ": " + error;
  program.name = kernel;
  program.maxThreads = module_.functions.at(kernel).maxThreads;
  for (const std::string& name : order_) {
    useShared(*functions_[name].function);
    layOut(functions_[name]);
  }
  // Dynamic shared memory begins after all static variables.
  uint64_t dynamicAlign = 1;
  for (const auto& [name, variable] : module_.variables) {
    if (moduleShared_.contains(name) && variable.elements == 0)
      dynamicAlign = std::max(dynamicAlign, variable.align);
  }
  program.sharedBytes = static_cast<uint32_t>(alignUp(program.sharedBytes, dynamicAlign));
  for (const auto& [name, variable] : module_.variables) {
    if (moduleShared_.contains(name) && variable.elements == 0) moduleShared_[name] = program.sharedBytes;
  }
  for (const std::string& name : order_) {
    error = decodeFunction(functions_[name]);
    if (!error.empty())
      return "kernel " + kernel + (name == kernel ? "" : ", function " + name) + ": " + error;
  }
  for (const auto& [function, at] : calls_) program.code[at].target = functions_[function].begin;
  return "";
}

}  // namespace slim::emulator
