// Which instruction sets this processor offers, and which one the kernels use.
#pragma once
#include <string>
#include <vector>

#include "core/status.h"

namespace slim {

enum class InstructionSet { Portable, Avx2, Avx512, Neon };

/// "portable", "avx2" (with FMA and F16C), "avx512" (F, BW, DQ, VL) or "neon" (with dot products:
/// FEAT_DotProd; of packed products alone, all else is portable then).
const char* instructionSetName(InstructionSet set);

/// What this processor and operating system support, weakest first; always begins with Portable.
const std::vector<InstructionSet>& supportedInstructionSets();

/// AVX-512 and its vpdpbusd: a processor with the one alone runs the AVX2 kernels of packed products.
bool hasVnni();

/// NEON's products of 2 × 8 by 8 × 2 int8 (FEAT_I8MM).
bool hasI8mm();

/// The one that kernels use: the strongest supported, unless setInstructionSet chose another.
InstructionSet activeInstructionSet();

/// Makes kernels that start from now on use a weaker set, so that tests reach every path on one machine.
Status setInstructionSet(const std::string& name);

}  // namespace slim
