// What the decoder and the flow graph must know of single operations.
#pragma once

#include "program.h"

namespace slim::emulator {

bool isReturn(const MicroOp& op);  // ret, exit or trap
bool isCall(const MicroOp& op);

}  // namespace slim::emulator
