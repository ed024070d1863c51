#include "metrics.h"

#include <algorithm>

#include "findings.h"

namespace slim::emulator {

namespace {

constexpr const char* kClassNames[] = {
    "integer", "float32", "float64",   "half",   "conversion", "move",   "predicate", "control", "global",
    "shared",  "local",   "parameter", "atomic", "asyncCopy",  "matrix", "shuffle",   "barrier"};
static_assert(std::size(kClassNames) == static_cast<size_t>(OpClass::kCount));

constexpr uint32_t kBanks = 32;
constexpr uint32_t kSectorBytes = 32;

// The words of one phase: how many different ones fall on the bank that has most.
struct BankCounter {
  uint64_t words[kBanks][kLanes];
  uint8_t counts[kBanks] = {};
  void add(uint64_t word) {
    const uint32_t bank = word % kBanks;
    for (int i = 0; i < counts[bank]; i++) {
      if (words[bank][i] == word) return;
    }
    words[bank][counts[bank]++] = word;
  }
  uint32_t wavefronts() const { return *std::max_element(counts, counts + kBanks); }
};

}  // namespace

uint64_t Metrics::totalInstructions() const {
  uint64_t total = 0;
  for (const uint64_t count : instructions) total += count;
  return total;
}

// Accesses of 8 bytes a lane go by half warps and of 16 bytes by quarter warps; within such a phase each bank
// serves one 32-bit word a wavefront to all the lanes that want it.
void Metrics::countShared(const uint64_t* addresses, uint32_t mask, uint32_t bytes) {
  if (mask == 0) return;
  sharedRequests++;
  const uint32_t phases = bytes == 16 ? 4 : bytes == 8 ? 2 : 1;
  const uint32_t lanes = kLanes / phases;
  for (uint32_t phase = 0; phase < phases; phase++) {
    const uint32_t phaseMask = phases == 1 ? mask : mask >> (phase * lanes) & ((1u << lanes) - 1);
    if (phaseMask == 0) continue;
    BankCounter banks;
    for (uint32_t i = 0; i < lanes; i++) {
      if (!(phaseMask >> i & 1)) continue;
      const uint64_t address = addresses[phase * lanes + i];
      for (uint64_t word = address / 4; word <= (address + bytes - 1) / 4; word++) banks.add(word);
    }
    sharedWavefronts += banks.wavefronts();
    minimumWavefronts++;
  }
}

void Metrics::countGlobal(const uint64_t* addresses, uint32_t mask, uint32_t bytes, bool write) {
  if (mask == 0) return;
  globalRequests++;
  uint64_t sorted[kLanes];
  int count = 0;
  for (int lane = 0; lane < kLanes; lane++) {
    if (mask >> lane & 1) sorted[count++] = addresses[lane];
  }
  if (!std::is_sorted(sorted, sorted + count)) std::sort(sorted, sorted + count);
  uint64_t distinct = 0, distinctSectors = 0;
  for (int i = 0; i < count; i++) {
    distinct += i == 0 || sorted[i] != sorted[i - 1];
    distinctSectors += i == 0 || sorted[i] / kSectorBytes != sorted[i - 1] / kSectorBytes;
  }
  sectors += distinctSectors;
  minimumSectors += (distinct * bytes + kSectorBytes - 1) / kSectorBytes;
  (write ? bytesWritten : bytesRead) += distinct * bytes;
}

std::string Metrics::report(const std::string& kernel, const uint32_t grid[3], const uint32_t block[3],
                            bool ofGraph) const {
  const auto triple = [](const uint32_t v[3]) {
    return "[" + std::to_string(v[0]) + ", " + std::to_string(v[1]) + ", " + std::to_string(v[2]) + "]";
  };
  std::string json = "{\"kernel\": " + jsonString(kernel) + ", \"graph\": " + (ofGraph ? "true" : "false") +
                     ", \"grid\": " + triple(grid) + ", \"block\": " + triple(block) +
                     ", \"instructions\": " + std::to_string(totalInstructions()) +
                     ", \"instructionsByClass\": {";
  bool first = true;
  for (size_t i = 0; i < std::size(kClassNames); i++) {
    if (instructions[i] == 0) continue;
    json += (first ? "\"" : ", \"") + std::string(kClassNames[i]) + "\": " + std::to_string(instructions[i]);
    first = false;
  }
  json += "}";
  const auto field = [&](const char* name, uint64_t value) {
    json += ", \"" + std::string(name) + "\": " + std::to_string(value);
  };
  field("laneInstructions", laneInstructions);
  field("sharedRequests", sharedRequests);
  field("sharedWavefronts", sharedWavefronts);
  field("minimumWavefronts", minimumWavefronts);
  field("globalRequests", globalRequests);
  field("sectors", sectors);
  field("minimumSectors", minimumSectors);
  field("bytesRead", bytesRead);
  field("bytesWritten", bytesWritten);
  field("localRequests", localRequests);
  field("barriers", barriers);
  return json + "}";
}

}  // namespace slim::emulator
