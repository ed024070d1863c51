// What a launch cost in the units that bound a kernel on the hardware: instructions issued, shared-memory
// wavefronts, 32-byte sectors. Deterministic, so that a table of them can be a golden file.
#pragma once

#include <cstdint>
#include <string>

#include "program.h"

namespace slim::emulator {

struct Metrics {
  uint64_t instructions[static_cast<int>(OpClass::kCount)] = {};
  uint64_t sharedRequests = 0, sharedWavefronts = 0, minimumWavefronts = 0;
  uint64_t globalRequests = 0, sectors = 0, minimumSectors = 0;
  uint64_t bytesRead = 0, bytesWritten = 0, localRequests = 0, barriers = 0, laneInstructions = 0;

  uint64_t totalInstructions() const;
  // addresses[lane] for the lanes of mask, each access of `bytes` bytes, aligned.
  void countShared(const uint64_t* addresses, uint32_t mask, uint32_t bytes);
  void countGlobal(const uint64_t* addresses, uint32_t mask, uint32_t bytes, bool write);
  // One line of JSON.
  std::string report(const std::string& kernel, const uint32_t grid[3], const uint32_t block[3],
                     bool ofGraph) const;
};

}  // namespace slim::emulator
