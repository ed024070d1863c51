// What the PTX parser makes of a module: variables, functions and their statements, with names resolved to
// indices but instructions not yet understood (decoder.h does that for the functions that are used).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace slim::emulator {

enum class Type : uint8_t {
  kNone,
  kPred,
  kB8,
  kB16,
  kB32,
  kB64,
  kU8,
  kU16,
  kU32,
  kU64,
  kS8,
  kS16,
  kS32,
  kS64,
  kF16,
  kBF16,
  kF16x2,
  kBF16x2,
  kTF32,
  kF32,
  kF64,
};

Type typeNamed(const std::string& name);
int bitsOf(Type type);
inline bool isSigned(Type type) { return type >= Type::kS8 && type <= Type::kS64; }
inline bool isFloat(Type type) { return type >= Type::kF16; }

enum class Space : uint8_t { kGeneric, kGlobal, kShared, kLocal, kParam, kConst };

// One initial element of a variable: a number, or the address of another variable.
struct Initializer {
  uint64_t value = 0;
  std::string symbol;
};

struct Variable {
  std::string name;
  Space space = Space::kGlobal;
  Type type = Type::kB8;
  uint64_t align = 1;
  uint64_t elements = 1;
  bool isExtern = false;
  std::vector<Initializer> initial;
  uint64_t bytes() const { return elements * bitsOf(type) / 8; }
};

struct Operand {
  enum class Kind : uint8_t {
    kRegister,
    kImmediate,
    kVariable,
    kName,
    kAddress,
    kVector,
    kPair,
    kList,
    kSink
  };
  Kind kind = Kind::kSink;
  bool negated = false;      // !%p
  bool isFloatBits = false;  // 0f… and 0d…: value holds the pattern
  int index = -1;            // register, or variable of the function
  int64_t offset = 0;        // of an address, or of a variable's address
  uint64_t value = 0;
  std::string name;               // special register, module variable, function, label
  std::vector<Operand> elements;  // of a vector, a pair (d|p), an argument list; the base of an address
};

struct Statement {
  int guard = -1;
  bool guardNegated = false;
  std::vector<std::string> opcode;
  std::vector<Operand> operands;
  int scope = 0;
  int line = 0;
  std::string text;
};

struct RegisterDeclaration {
  std::string name;
  Type type;
};

struct Function {
  std::string name;
  bool isEntry = false, hasBody = false;
  std::vector<int> parameters, results;  // indices of variables
  std::vector<Variable> variables;       // parameters and whatever the body declares
  std::vector<RegisterDeclaration> registers;
  std::vector<Statement> statements;
  std::vector<int> scopeParent;                       // lexical scopes of the body; 0 is the body itself
  std::map<std::pair<int, std::string>, int> labels;  // (scope, name) to the index of a statement
  std::map<std::string, std::vector<std::string>> branchTargets;
  int maxThreads = 0;
};

struct Module {
  std::string target;
  std::map<std::string, Variable> variables;
  std::map<std::string, Function> functions;
};

}  // namespace slim::emulator
