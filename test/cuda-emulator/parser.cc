#include "parser.h"

#include <algorithm>
#include <bit>
#include <cstdlib>

#include "lexer.h"

namespace slim::emulator {

namespace {

struct TypeName {
  const char* name;
  Type type;
  int bits;
};

constexpr TypeName kTypes[] = {
    {"none", Type::kNone, 0},  {"pred", Type::kPred, 1},    {"b8", Type::kB8, 8},
    {"b16", Type::kB16, 16},   {"b32", Type::kB32, 32},     {"b64", Type::kB64, 64},
    {"u8", Type::kU8, 8},      {"u16", Type::kU16, 16},     {"u32", Type::kU32, 32},
    {"u64", Type::kU64, 64},   {"s8", Type::kS8, 8},        {"s16", Type::kS16, 16},
    {"s32", Type::kS32, 32},   {"s64", Type::kS64, 64},     {"f16", Type::kF16, 16},
    {"bf16", Type::kBF16, 16}, {"f16x2", Type::kF16x2, 32}, {"bf16x2", Type::kBF16x2, 32},
    {"tf32", Type::kTF32, 32}, {"f32", Type::kF32, 32},     {"f64", Type::kF64, 64},
};

bool spaceNamed(std::string_view word, Space& space) {
  if (word == ".global")
    space = Space::kGlobal;
  else if (word == ".shared")
    space = Space::kShared;
  else if (word == ".local")
    space = Space::kLocal;
  else if (word == ".param")
    space = Space::kParam;
  else if (word == ".const")
    space = Space::kConst;
  else
    return false;
  return true;
}

// The first error sticks: the parser then stands at the end of the text and every loop ends.
class Parser {
 public:
  Parser(std::string_view text, Module& module) : tokens_(lexPtx(text)), module_(module) {}

  std::string parse() {
    while (!atEnd()) parseModuleItem();
    return error_;
  }

 private:
  const Token& peek(size_t ahead = 0) const {
    return tokens_[std::min(position_ + ahead, tokens_.size() - 1)];
  }
  bool atEnd() const { return peek().kind == Token::Kind::kEnd; }
  bool at(std::string_view text) const { return peek().text == text; }
  Token next() {
    Token token = peek();
    if (!atEnd()) position_++;
    return token;
  }
  bool take(std::string_view text) {
    if (!at(text)) return false;
    position_++;
    return true;
  }
  void expect(std::string_view text) {
    if (!take(text)) fail("expected '" + std::string(text) + "'");
  }
  void fail(const std::string& what) {
    if (error_.empty()) {
      error_ = "PTX line " + std::to_string(peek().line) + ": " + what + " but found '" +
               std::string(peek().text) + "'";
    }
    position_ = tokens_.size() - 1;
  }
  std::string word(const char* what) {
    if (peek().kind != Token::Kind::kWord) {
      fail(std::string("expected ") + what);
      return "";
    }
    return std::string(next().text);
  }

  uint64_t number() {
    const bool negative = take("-");
    if (peek().kind != Token::Kind::kNumber) {
      fail("expected a number");
      return 0;
    }
    const uint64_t value = std::strtoull(std::string(next().text).c_str(), nullptr, 0);
    return negative ? ~value + 1 : value;
  }

  void parseModuleItem() {
    Space space;
    if (at(".version") || at(".address_size")) {
      next();
      next();
    } else if (take(".target")) {
      module_.target = std::string(next().text);
      while (take(",")) next();
    } else if (at(".file") || at(".section") || at(".pragma") || at(".alias")) {
      skipDirective();
    } else {
      bool isExtern = false;
      while (at(".visible") || at(".extern") || at(".weak") || at(".common"))
        isExtern |= next().text == ".extern";
      if (at(".entry") || at(".func")) {
        parseFunction();
      } else if (spaceNamed(peek().text, space)) {
        for (Variable& variable : parseVariables(isExtern)) {
          expectInitializer(variable);
          module_.variables[variable.name] = std::move(variable);
        }
        expect(";");
      } else {
        fail("expected a directive of the module");
      }
    }
  }

  void skipDirective() {
    const int line = peek().line;
    if (at(".section")) {
      while (!atEnd() && !take("}")) next();
      return;
    }
    while (!atEnd() && peek().line == line && !take(";")) next();
  }

  // .space [.align n] .type name [ [n] ]  — one name, as nvcc writes it, or several after commas.
  std::vector<Variable> parseVariables(bool isExtern) {
    Variable shape;
    shape.isExtern = isExtern;
    spaceNamed(next().text, shape.space);
    while (peek().kind == Token::Kind::kWord && peek().text.starts_with(".")) {
      const std::string directive(next().text);
      if (directive == ".align") {
        shape.align = number();
      } else if (directive == ".ptr") {
        continue;  // .ptr .global .align n: a hint about what a parameter points to
      } else if (Space space; !spaceNamed(directive, space)) {
        const Type type = typeNamed(directive.substr(1));
        if (type == Type::kNone) fail("expected a type, got " + directive);
        shape.type = type;
      }
    }
    shape.align = std::max<uint64_t>(shape.align, bitsOf(shape.type) / 8);
    std::vector<Variable> variables;
    do {
      Variable variable = shape;
      variable.name = word("the name of a variable");
      while (take("[")) {
        variable.elements = at("]") ? 0 : variable.elements * number();
        expect("]");
      }
      variables.push_back(std::move(variable));
    } while (!at("=") && at(",") && peek(1).kind == Token::Kind::kWord && !peek(1).text.starts_with(".") &&
             take(","));
    return variables;
  }

  void expectInitializer(Variable& variable) {
    if (take("=")) parseInitializer(variable);
  }

  void parseInitializer(Variable& variable) {
    if (take("{")) {
      while (!atEnd() && !take("}")) {
        parseInitializer(variable);
        take(",");
      }
    } else if (peek().kind == Token::Kind::kNumber || at("-")) {
      Operand value = parseNumber();
      variable.initial.push_back({value.value, ""});
    } else {
      std::string symbol = word("an initial value");
      if (symbol == "generic") {
        expect("(");
        symbol = word("a variable");
        expect(")");
      }
      uint64_t offset = 0;
      if (take("+")) offset = number();
      variable.initial.push_back({offset, symbol});
    }
  }

  void parseFunction() {
    Function function;
    function.isEntry = next().text == ".entry";
    function_ = &function;
    if (!function.isEntry && at("(")) parseParameters(function.results);
    function.name = word("the name of a function");
    if (at("(")) parseParameters(function.parameters);
    while (!atEnd() && !at("{") && !at(";")) {
      if (take(".maxntid")) {
        function.maxThreads = static_cast<int>(number());
        while (take(",")) function.maxThreads *= static_cast<int>(number());
      } else if (at(".noreturn") || peek().kind == Token::Kind::kWord ||
                 peek().kind == Token::Kind::kNumber || at(",")) {
        next();
      } else {
        fail("expected a directive of a function");
      }
    }
    if (take("{")) {
      function.hasBody = true;
      registerNames_.clear();
      variableNames_.assign(1, {});
      registerNames_.assign(1, {});
      function.scopeParent = {-1};
      for (size_t i = 0; i < function.variables.size(); i++)
        variableNames_[0][function.variables[i].name] = static_cast<int>(i);
      scope_ = 0;
      parseBody();
    } else {
      expect(";");
    }
    function_ = nullptr;
    Function& known = module_.functions[function.name];
    if (!known.hasBody) known = std::move(function);
  }

  void parseParameters(std::vector<int>& indices) {
    expect("(");
    while (!atEnd() && !take(")")) {
      for (Variable& variable : parseVariables(false)) {
        variable.space = Space::kParam;
        indices.push_back(static_cast<int>(function_->variables.size()));
        function_->variables.push_back(std::move(variable));
      }
      take(",");
    }
  }

  void parseBody() {
    while (!atEnd()) {
      Space space;
      if (take("{")) {
        function_->scopeParent.push_back(scope_);
        scope_ = static_cast<int>(function_->scopeParent.size()) - 1;
        registerNames_.emplace_back();
        variableNames_.emplace_back();
      } else if (take("}")) {
        if (scope_ == 0) return;
        scope_ = function_->scopeParent[scope_];
      } else if (take(";")) {
        continue;
      } else if (at(".reg")) {
        parseRegisters();
      } else if (spaceNamed(peek().text, space)) {
        for (Variable& variable : parseVariables(false)) {
          variableNames_[scope_][variable.name] = static_cast<int>(function_->variables.size());
          function_->variables.push_back(std::move(variable));
        }
        expect(";");
      } else if (at(".loc") || at(".pragma") || at(".file")) {
        skipDirective();
      } else if (peek(1).text == ":" && peek().kind == Token::Kind::kWord) {
        parseLabel();
      } else {
        parseStatement();
      }
    }
    fail("expected '}' at the end of " + function_->name);
  }

  void parseLabel() {
    const std::string label = word("a label");
    expect(":");
    if (take(".branchtargets")) {
      do function_->branchTargets[label].push_back(word("a label"));
      while (take(","));
      expect(";");
    } else {
      function_->labels[{scope_, label}] = static_cast<int>(function_->statements.size());
    }
  }

  void parseRegisters() {
    next();
    const std::string typeWord = word("the type of a register");
    const Type type = typeNamed(typeWord.empty() ? "" : typeWord.substr(1));
    if (type == Type::kNone) fail("expected the type of a register, got " + typeWord);
    do {
      const std::string name = word("the name of a register");
      if (take("<")) {
        const uint64_t count = number();
        expect(">");
        for (uint64_t i = 0; i < count; i++) declare(name + std::to_string(i), type);
      } else {
        declare(name, type);
      }
    } while (take(","));
    expect(";");
  }

  void declare(const std::string& name, Type type) {
    registerNames_[scope_][name] = static_cast<int>(function_->registers.size());
    function_->registers.push_back({name, type});
  }

  static int find(const std::vector<std::map<std::string, int>>& scopes, const std::vector<int>& parents,
                  int scope, const std::string& name) {
    for (; scope >= 0; scope = parents[scope]) {
      const auto found = scopes[scope].find(name);
      if (found != scopes[scope].end()) return found->second;
    }
    return -1;
  }

  void parseStatement() {
    Statement statement;
    statement.scope = scope_;
    statement.line = peek().line;
    const size_t from = position_;
    if (take("@")) {
      statement.guardNegated = take("!");
      const std::string name = word("a guard predicate");
      statement.guard = find(registerNames_, function_->scopeParent, scope_, name);
      if (statement.guard < 0) fail("expected a declared predicate, got " + name);
    }
    const std::string opcode = word("an instruction");
    for (size_t start = 0; start <= opcode.size();) {
      const size_t dot = std::min(opcode.find('.', start), opcode.size());
      statement.opcode.push_back(opcode.substr(start, dot - start));
      start = dot + 1;
    }
    while (!atEnd() && !at(";")) {
      statement.operands.push_back(parseOperand());
      if (!take(",") && !at(";")) fail("expected ',' or ';' after an operand of " + opcode);
    }
    for (size_t i = from; i < position_; i++) {
      const std::string_view text = tokens_[i].text;
      const bool tight = statement.text.empty() || text == "," || text == "]" || text == "}" || text == ")" ||
                         text == "|" || statement.text.back() == '[' || statement.text.back() == '{' ||
                         statement.text.back() == '@' || statement.text.back() == '!' ||
                         statement.text.back() == '(' || statement.text.back() == '|' ||
                         statement.text.back() == '+' || statement.text.back() == '-' || text == "+";
      if (!tight) statement.text += ' ';
      statement.text += text;
    }
    expect(";");
    function_->statements.push_back(std::move(statement));
  }

  Operand parseNumber() {
    Operand operand;
    operand.kind = Operand::Kind::kImmediate;
    const std::string_view text = peek(at("-") ? 1 : 0).text;
    if (text.starts_with("0f") || text.starts_with("0F") || text.starts_with("0d") ||
        text.starts_with("0D")) {
      operand.isFloatBits = true;
      const bool negative = take("-");
      const bool isDouble = text[1] == 'd' || text[1] == 'D';
      operand.value = std::strtoull(std::string(next().text.substr(2)).c_str(), nullptr, 16);
      if (negative) operand.value ^= isDouble ? 1ull << 63 : 1ull << 31;
      operand.offset = isDouble ? 64 : 32;
    } else if (text.find('.') != std::string_view::npos) {
      const bool negative = take("-");
      const double value = std::strtod(std::string(next().text).c_str(), nullptr);
      operand.isFloatBits = true;
      operand.value = std::bit_cast<uint64_t>(negative ? -value : value);
      operand.offset = 64;
    } else {
      operand.value = number();
    }
    return operand;
  }

  Operand parseOperand() {
    Operand operand = parseSimpleOperand();
    if (take("|")) {
      Operand pair;
      pair.kind = Operand::Kind::kPair;
      pair.elements.push_back(std::move(operand));
      pair.elements.push_back(parseSimpleOperand());
      return pair;
    }
    return operand;
  }

  Operand parseSimpleOperand() {
    Operand operand;
    if (take("!")) {
      operand = parseSimpleOperand();
      operand.negated = true;
    } else if (take("{")) {
      operand.kind = Operand::Kind::kVector;
      parseList(operand.elements, "}");
    } else if (take("(")) {
      operand.kind = Operand::Kind::kList;
      parseList(operand.elements, ")");
    } else if (take("[")) {
      operand.kind = Operand::Kind::kAddress;
      operand.elements.push_back(parseSimpleOperand());
      operand.offset = operand.elements[0].offset;
      if (take("+")) operand.offset += static_cast<int64_t>(number());
      expect("]");
    } else if (peek().kind == Token::Kind::kNumber || at("-")) {
      operand = parseNumber();
    } else {
      operand = parseName();
    }
    return operand;
  }

  void parseList(std::vector<Operand>& elements, std::string_view close) {
    while (!atEnd() && !take(close)) {
      elements.push_back(parseSimpleOperand());
      if (!take(",") && !at(close)) fail("expected ',' or '" + std::string(close) + "'");
    }
  }

  Operand parseName() {
    Operand operand;
    operand.name = word("an operand");
    if (operand.name == "_") return operand;
    operand.index = find(registerNames_, function_->scopeParent, scope_, operand.name);
    if (operand.index >= 0) {
      operand.kind = Operand::Kind::kRegister;
      return operand;
    }
    operand.index = find(variableNames_, function_->scopeParent, scope_, operand.name);
    operand.kind = operand.index >= 0 ? Operand::Kind::kVariable : Operand::Kind::kName;
    if (at("+") && (peek(1).kind == Token::Kind::kNumber || peek(1).text == "-")) {
      next();
      operand.offset = static_cast<int64_t>(number());
    }
    return operand;
  }

  std::vector<Token> tokens_;
  Module& module_;
  size_t position_ = 0;
  std::string error_;
  Function* function_ = nullptr;
  int scope_ = 0;
  std::vector<std::map<std::string, int>> registerNames_, variableNames_;
};

}  // namespace

Type typeNamed(const std::string& name) {
  for (const TypeName& type : kTypes) {
    if (name == type.name) return type.type;
  }
  return Type::kNone;
}

int bitsOf(Type type) { return kTypes[static_cast<size_t>(type)].bits; }

std::string parsePtx(std::string_view text, Module& module) { return Parser(text, module).parse(); }

}  // namespace slim::emulator
