// One access of a warp to memory: addresses of its lanes, checks of every kind, and host pointers to the
// bytes.
#pragma once

#include "launch.h"

namespace slim::emulator {

// Addresses of the lanes: base register plus displacement.
void gatherAddresses(Warp& warp, const MicroOp& op, uint32_t slot, uint64_t* addresses);

// The space that a generic address lies in; the address becomes an offset in it.
Space settleGeneric(uint64_t& address);

// Checks and enters the access of `bytes` bytes of each lane of the mask into the shadows and the metrics;
// pointers[lane] is then where the bytes lie. False when it found a defect (and reported it).
bool accessMemory(Warp& warp, const MicroOp& op, uint32_t mask, Space space, const uint64_t* addresses,
                  uint32_t bytes, Access access, uint8_t** pointers);

// The same for addresses that may lie in several spaces.
bool accessAnywhere(Warp& warp, const MicroOp& op, uint32_t mask, uint64_t* addresses, uint32_t bytes,
                    Access access, uint8_t** pointers);

// The order between CTAs that atomics and strong accesses to a word of global memory give.
void synchronizeCtas(Warp& warp, const MicroOp& op, uint32_t mask, const uint64_t* addresses);

// Where an instruction's opcode says it goes.
class Instruction;
Space spaceOf(const Instruction& instruction);

}  // namespace slim::emulator
