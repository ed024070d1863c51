#include "lexer.h"

#include <cctype>

namespace slim::emulator {

namespace {

bool startsWord(char c) {
  return std::isalpha(static_cast<unsigned char>(c)) || c == '_' || c == '$' || c == '%' || c == '.';
}

bool continuesWord(char c) { return startsWord(c) || std::isdigit(static_cast<unsigned char>(c)); }

}  // namespace

std::vector<Token> lexPtx(std::string_view text) {
  std::vector<Token> tokens;
  int line = 1;
  size_t i = 0;
  const size_t n = text.size();
  auto emit = [&](Token::Kind kind, size_t from) {
    tokens.push_back({kind, text.substr(from, i - from), line});
  };
  while (i < n && text[i] != '\0') {
    const char c = text[i];
    const size_t from = i;
    if (c == '\n') {
      line++;
      i++;
    } else if (std::isspace(static_cast<unsigned char>(c))) {
      i++;
    } else if (text.substr(i, 2) == "//") {
      while (i < n && text[i] != '\n') i++;
    } else if (text.substr(i, 2) == "/*") {
      for (i += 2; i < n && text.substr(i, 2) != "*/"; i++) line += text[i] == '\n';
      i += 2;
    } else if (c == '"') {
      for (i++; i < n && text[i] != '"'; i++) i += text[i] == '\\';
      i++;
      emit(Token::Kind::kString, from);
    } else if (std::isdigit(static_cast<unsigned char>(c))) {
      while (i < n && std::isalnum(static_cast<unsigned char>(text[i]))) i++;
      if (i + 1 < n && text[i] == '.' && std::isdigit(static_cast<unsigned char>(text[i + 1]))) {
        for (i++; i < n && std::isalnum(static_cast<unsigned char>(text[i]));) i++;
      }
      emit(Token::Kind::kNumber, from);
    } else if (startsWord(c)) {
      while (i < n && (continuesWord(text[i]) || (text.substr(i, 2) == "::" && ++i))) i++;
      emit(Token::Kind::kWord, from);
    } else {
      i++;
      emit(Token::Kind::kPunctuation, from);
    }
  }
  tokens.push_back({Token::Kind::kEnd, "", line});
  return tokens;
}

}  // namespace slim::emulator
