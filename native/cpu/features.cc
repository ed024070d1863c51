#include "cpu/features.h"

#include <atomic>

#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace slim {
namespace {

std::vector<InstructionSet> detect() {
  std::vector<InstructionSet> sets = {InstructionSet::Portable};
#if defined(__x86_64__)
  // __builtin_cpu_supports also asks whether the operating system saves the wide registers.
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2) sets.push_back(InstructionSet::Avx2);
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    sets.push_back(InstructionSet::Avx512);
#elif defined(__aarch64__) && defined(__linux__)
  if (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) sets.push_back(InstructionSet::Neon);
#endif
  return sets;
}

std::atomic<InstructionSet>& active() {
  static std::atomic<InstructionSet> set{supportedInstructionSets().back()};
  return set;
}

}  // namespace

const char* instructionSetName(InstructionSet set) {
  constexpr const char* kNames[] = {"portable", "avx2", "avx512", "neon"};
  return kNames[size_t(set)];
}

const std::vector<InstructionSet>& supportedInstructionSets() {
  static const std::vector<InstructionSet> sets = detect();
  return sets;
}

bool hasVnni() {
#if defined(__x86_64__)
  return supportedInstructionSets().back() == InstructionSet::Avx512 && __builtin_cpu_supports("avx512vnni");
#else
  return false;
#endif
}

bool hasI8mm() {
#if defined(__aarch64__) && defined(__linux__)
  return getauxval(AT_HWCAP2) & HWCAP2_I8MM;
#else
  return false;
#endif
}

InstructionSet activeInstructionSet() { return active().load(std::memory_order_relaxed); }

Status setInstructionSet(const std::string& name) {
  std::string expected;
  for (InstructionSet set : supportedInstructionSets()) {
    if (name == instructionSetName(set)) {
      active().store(set, std::memory_order_relaxed);
      return Status::success();
    }
    expected += (expected.empty() ? "" : " or ") + std::string(instructionSetName(set));
  }
  return Status::invalidArgument("name", expected + " on this processor", '"' + name + '"');
}

}  // namespace slim
