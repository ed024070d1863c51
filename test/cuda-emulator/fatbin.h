// The PTX inside a fatbin: a header of 16 bytes, then entries of a header and a payload each.
#pragma once

#include <string>

namespace slim::emulator {

// Finds the PTX text for a device of this compute capability (80 for 8.0) in a fatbin, or takes plain PTX as
// it is. The image's own headers say how long it is; plain text ends at its NUL. Returns an empty string or
// an error.
std::string findPtx(const void* image, int computeCapability, std::string& text);

}  // namespace slim::emulator
