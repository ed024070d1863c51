// The tokens of PTX: words (with their dots and "::"), numbers, strings, punctuation.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace slim::emulator {

struct Token {
  enum class Kind { kWord, kNumber, kString, kPunctuation, kEnd };
  Kind kind = Kind::kEnd;
  std::string_view text;
  int line = 0;
};

std::vector<Token> lexPtx(std::string_view text);

}  // namespace slim::emulator
