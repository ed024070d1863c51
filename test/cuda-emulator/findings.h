// Defects found: their driver code and text, kept for cuGetErrorString and appended to
// SLIM_EMULATOR_FINDINGS.
#pragma once

#include <cstdint>
#include <string>

namespace slim::emulator {

constexpr int kErrorIllegalAddress = 700;
constexpr int kErrorMisalignedAddress = 716;
constexpr int kErrorLaunchFailed = 719;

struct Finding {
  int code = 0;
  std::string kind;  // a stable word for tests: "shared-race", "global-bounds", …
  std::string text;
};

// Remembers the text for this code (the pointer stays valid for the life of the process) and logs a finding.
void recordFinding(const Finding& finding);
void rememberError(int code, const std::string& text);
const char* rememberedError(int code);

std::string hexadecimal(uint64_t value);
std::string laneList(uint32_t mask);  // "lanes 0-15,17"
std::string jsonString(const std::string& text);

}  // namespace slim::emulator
