// PTX text to a Module. An error names the line and what stood there.
#pragma once

#include <string>
#include <string_view>

#include "syntax.h"

namespace slim::emulator {

// Returns an empty string, or what is wrong with the text.
std::string parsePtx(std::string_view text, Module& module);

}  // namespace slim::emulator
