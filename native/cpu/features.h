// Which instruction sets this processor offers, and which one the kernels use.
#pragma once
#include <string>
#include <vector>

#include "core/status.h"

namespace slim {

enum class InstructionSet { Portable, Avx2, Avx512 };

/// "portable", "avx2" (with FMA and F16C) or "avx512" (F, BW, DQ, VL).
const char* instructionSetName(InstructionSet set);

/// What this processor and operating system support, weakest first; always begins with Portable.
const std::vector<InstructionSet>& supportedInstructionSets();

/// AVX-512 and its vpdpbusd: a processor with the one alone runs the AVX2 kernels of packed products.
bool hasVnni();

/// The one that kernels use: the strongest supported, unless setInstructionSet chose another.
InstructionSet activeInstructionSet();

/// Makes kernels that start from now on use a weaker set, so that tests reach every path on one machine.
Status setInstructionSet(const std::string& name);

}  // namespace slim
