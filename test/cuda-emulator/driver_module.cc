// Modules, functions and launches.
#include <cfenv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "decoder.h"
#include "driver_state.h"
#include "fatbin.h"
#include "launch.h"
#include "parser.h"

using namespace slim::emulator;

namespace {

constexpr uint32_t kStaticLimit = 48 * 1024;
constexpr uint32_t kMaxThreads = 1024;
constexpr uint64_t kDefaultInstructionLimit = uint64_t{1} << 36;

// CUfunction_attribute
enum FunctionAttribute {
  kMaxThreadsPerBlock,
  kSharedBytes,
  kConstBytes,
  kLocalBytes,
  kRegisters,
  kPtxVersion,
  kBinaryVersion,
  kCacheMode,
  kMaxDynamicShared,
  kCarveout
};

// Module variables of .global and .const space get memory of the device; their initial values count as
// written.
CUresult placeVariables(CUmod_st& module) {
  DeviceMemory& memory = *module.context->memory;
  for (const auto& [name, variable] : module.syntax.variables) {
    if (variable.space == Space::kShared) continue;
    const uint64_t bytes = variable.bytes();
    if (bytes == 0) return failWith(CUDA_ERROR_INVALID_PTX, "the variable " + name + " has no size");
    module.addresses[name] = memory.allocate(bytes, name);
    if (module.addresses[name] == 0)
      return failWith(CUDA_ERROR_OUT_OF_MEMORY, "no memory for the variable " + name);
    memory.find(module.addresses[name])->markRangeWritten(0, bytes);
  }
  for (const auto& [name, variable] : module.syntax.variables) {
    if (variable.space == Space::kShared) continue;
    const size_t element = bitsOf(variable.type) / 8;
    Allocation* allocation = memory.find(module.addresses[name]);
    for (size_t i = 0; i < variable.initial.size() && (i + 1) * element <= allocation->bytes; i++) {
      uint64_t value = variable.initial[i].value;
      if (!variable.initial[i].symbol.empty()) {
        const auto symbol = module.addresses.find(variable.initial[i].symbol);
        if (symbol == module.addresses.end())
          return failWith(CUDA_ERROR_INVALID_PTX, "the variable " + name + " refers to " +
                                                      variable.initial[i].symbol + ", which has no address");
        value += symbol->second;
      }
      std::memcpy(allocation->data + i * element, &value, element);
    }
  }
  return CUDA_SUCCESS;
}

CUresult parametersOf(const CUfunc_st& function, void** given, void** extra,
                      std::vector<uint8_t>& parameters) {
  const std::string& name = function.program.name;
  const uint32_t expected = function.program.paramBytes;
  parameters.assign(expected, 0);
  if (given != nullptr && extra != nullptr)
    return failWith(CUDA_ERROR_INVALID_VALUE, "kernel " + name + ": both kernelParams and extra given");
  if (given != nullptr) {
    for (size_t i = 0; i < function.parameters.size(); i++) {
      std::memcpy(parameters.data() + function.parameters[i].first, given[i], function.parameters[i].second);
    }
    return CUDA_SUCCESS;
  }
  const void* buffer = nullptr;
  size_t bytes = 0;
  for (void** key = extra; key != nullptr && *key != kLaunchParamEnd; key += 2) {
    if (key[0] == kLaunchParamBufferPointer) buffer = key[1];
    if (key[0] == kLaunchParamBufferSize) bytes = *static_cast<size_t*>(key[1]);
  }
  if (bytes != expected) {
    std::string text = "kernel " + name + " takes " + std::to_string(function.parameters.size()) +
                       " arguments of " + std::to_string(expected) + " bytes in all (bytes at offset:";
    for (const auto& [offset, size] : function.parameters)
      text += " " + std::to_string(size) + "@" + std::to_string(offset);
    recordFinding({CUDA_ERROR_INVALID_VALUE, "arguments",
                   text + ") but the launch passes " + std::to_string(bytes) + " bytes"});
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (bytes != 0) std::memcpy(parameters.data(), buffer, bytes);
  return CUDA_SUCCESS;
}

CUresult checkShape(const CUfunc_st& function, const LaunchRequest& request) {
  static constexpr uint32_t kMaxGrid[] = {2147483647, 65535, 65535}, kMaxBlock[] = {1024, 1024, 64};
  const auto bad = [&](CUresult error, const std::string& what) {
    recordFinding({error, "launch-shape", "launch of kernel " + function.program.name + ": " + what});
    return error;
  };
  uint64_t threads = 1, ctas = 1;
  for (int i = 0; i < 3; i++) {
    const std::string axis(1, static_cast<char>('x' + i));
    if (request.grid[i] == 0 || request.grid[i] > kMaxGrid[i])
      return bad(CUDA_ERROR_INVALID_VALUE, "grid." + axis + " is " + std::to_string(request.grid[i]) +
                                               ", expected 1 to " + std::to_string(kMaxGrid[i]));
    if (request.block[i] == 0 || request.block[i] > kMaxBlock[i])
      return bad(CUDA_ERROR_INVALID_VALUE, "block." + axis + " is " + std::to_string(request.block[i]) +
                                               ", expected 1 to " + std::to_string(kMaxBlock[i]));
    threads *= request.block[i];
    ctas *= request.grid[i];
  }
  if (threads > kMaxThreads)
    return bad(CUDA_ERROR_INVALID_VALUE, std::to_string(threads) + " threads a block, at most 1024");
  if (function.program.maxThreads != 0 && threads > static_cast<uint64_t>(function.program.maxThreads)) {
    return bad(CUDA_ERROR_INVALID_VALUE, std::to_string(threads) +
                                             " threads a block, but its __launch_bounds__ allow " +
                                             std::to_string(function.program.maxThreads));
  }
  if (ctas > 0x7fffff00)
    return bad(CUDA_ERROR_INVALID_VALUE, std::to_string(ctas) + " CTAs are more than the emulator counts");
  const uint32_t staticBytes = function.program.sharedBytes;
  if (request.dynamicShared > static_cast<uint32_t>(function.dynamicShared) &&
      staticBytes + request.dynamicShared > kStaticLimit) {
    return bad(
        CUDA_ERROR_INVALID_VALUE,
        std::to_string(staticBytes) + " bytes of static and " + std::to_string(request.dynamicShared) +
            " of dynamic shared memory; without CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES (now " +
            std::to_string(function.dynamicShared) + ") 49152 are allowed");
  }
  return CUDA_SUCCESS;
}

void appendReport(const Launch& launch) {
  const char* path = std::getenv("SLIM_EMULATOR_REPORT");
  if (path == nullptr || *path == '\0') return;
  if (FILE* file = std::fopen(path, "a")) {
    std::fprintf(
        file, "%s\n",
        launch.metrics
            .report(launch.program.name, launch.request.grid, launch.request.block, machine().launchesGraph)
            .c_str());
    std::fclose(file);
  }
}

// The host may have set its own rounding mode or flush-to-zero; the emulated device has neither.
class FloatEnvironment {
 public:
  FloatEnvironment() {
    std::fegetenv(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatEnvironment() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
};

CUresult runLaunch(const LaunchRequest& request, DeviceMemory& memory) {
  const FloatEnvironment environment;
  Launch launch(request, memory, environmentNumber("SLIM_EMULATOR_SEED", 1),
                environmentNumber("SLIM_EMULATOR_LIMIT", kDefaultInstructionLimit));
  launch.run();
  appendReport(launch);
  if (!launch.failed()) return CUDA_SUCCESS;
  recordFinding(*launch.finding());
  return launch.finding()->code;
}

}  // namespace

CUresult cuModuleLoadData(CUmodule* module, const void* image) {
  const std::lock_guard lock(machine().mutex);
  if (machine().current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  std::string text;
  std::string problem = findPtx(image, machine().computeCapability, text);
  if (!problem.empty()) return failWith(CUDA_ERROR_NO_BINARY_FOR_GPU, problem);
  auto loaded = std::make_unique<CUmod_st>();
  loaded->context = machine().current();
  problem = parsePtx(text, loaded->syntax);
  if (!problem.empty()) return failWith(CUDA_ERROR_INVALID_PTX, problem);
  const std::string target =
      loaded->syntax.target.substr(0, loaded->syntax.target.find_last_of("0123456789") + 1);
  if (target.starts_with("sm_") && std::atoi(target.c_str() + 3) > machine().computeCapability) {
    return failWith(CUDA_ERROR_INVALID_PTX, "the PTX is for " + target +
                                                ", the emulated device has compute capability " +
                                                std::to_string(machine().computeCapability / 10) + "." +
                                                std::to_string(machine().computeCapability % 10));
  }
  if (const CUresult error = placeVariables(*loaded)) {
    for (const auto& [name, address] : loaded->addresses) loaded->context->memory->release(address);
    return error;
  }
  *module = loaded.release();
  machine().modules.insert(*module);
  return CUDA_SUCCESS;
}

CUresult cuModuleUnload(CUmodule module) {
  const std::lock_guard lock(machine().mutex);
  if (machine().modules.erase(module) == 0)
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a module, or an unloaded one");
  for (const auto& [name, address] : module->addresses) module->context->memory->release(address);
  for (const auto& [name, function] : module->functions) machine().functions.erase(function.get());
  delete module;
  return CUDA_SUCCESS;
}

CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().modules.contains(module))
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a module, or an unloaded one");
  std::unique_ptr<CUfunc_st>& known = module->functions[name];
  if (known == nullptr) {
    const auto syntax = module->syntax.functions.find(name);
    if (syntax == module->syntax.functions.end() || !syntax->second.isEntry) {
      module->functions.erase(name);
      return failWith(CUDA_ERROR_NOT_FOUND, std::string("the module has no kernel ") + name);
    }
    auto decoded = std::make_unique<CUfunc_st>();
    decoded->module = module;
    const std::string problem = decodeKernel(module->syntax, name, module->addresses, decoded->program);
    if (!problem.empty()) {
      module->functions.erase(name);
      return failWith(CUDA_ERROR_INVALID_PTX, problem);
    }
    uint64_t offset = 0;
    for (const int index : syntax->second.parameters) {
      const Variable& parameter = syntax->second.variables[index];
      offset = (offset + parameter.align - 1) / parameter.align * parameter.align;
      decoded->parameters.emplace_back(offset, parameter.bytes());
      offset += parameter.bytes();
    }
    machine().functions.insert(decoded.get());
    known = std::move(decoded);
  }
  *function = known.get();
  return CUDA_SUCCESS;
}

CUresult cuFuncSetAttribute(CUfunction function, int attribute, int value) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().functions.contains(function))
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a function of a loaded module");
  if (attribute == kCarveout) return CUDA_SUCCESS;
  if (attribute != kMaxDynamicShared)
    return failWith(CUDA_ERROR_INVALID_VALUE,
                    "function attribute " + std::to_string(attribute) + " cannot be set");
  const uint32_t limit = sharedLimit(machine().computeCapability);
  if (value < 0 || function->program.sharedBytes + static_cast<uint32_t>(value) > limit) {
    return failWith(CUDA_ERROR_INVALID_VALUE, "kernel " + function->program.name + ": " +
                                                  std::to_string(function->program.sharedBytes) +
                                                  " bytes of static and " + std::to_string(value) +
                                                  " of dynamic shared memory, at most " +
                                                  std::to_string(limit));
  }
  function->dynamicShared = value;
  return CUDA_SUCCESS;
}

CUresult cuFuncGetAttribute(int* value, int attribute, CUfunction function) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().functions.contains(function))
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a function of a loaded module");
  const Program& program = function->program;
  switch (attribute) {
    case kMaxThreadsPerBlock:
      *value = program.maxThreads != 0 ? program.maxThreads : static_cast<int>(kMaxThreads);
      return CUDA_SUCCESS;
    case kSharedBytes:
      *value = static_cast<int>(program.sharedBytes);
      return CUDA_SUCCESS;
    case kConstBytes:
      *value = 0;
      return CUDA_SUCCESS;
    case kLocalBytes:
      *value = static_cast<int>(program.localBytes);
      return CUDA_SUCCESS;
    // PTX has no registers of the hardware; ptxas's report tells their number.
    case kRegisters:
      *value = 0;
      return CUDA_SUCCESS;
    case kPtxVersion:
    case kBinaryVersion:
      *value = machine().computeCapability;
      return CUDA_SUCCESS;
    case kMaxDynamicShared:
      *value = function->dynamicShared;
      return CUDA_SUCCESS;
    default:
      return failWith(CUDA_ERROR_INVALID_VALUE, "function attribute " + std::to_string(attribute) +
                                                    " is not one that the emulator knows");
  }
}

CUresult cuLaunchKernel(CUfunction function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                        unsigned blockY, unsigned blockZ, unsigned sharedBytes, CUstream stream,
                        void** parameters, void** extra) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context = machine().current();
  if (context == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  if (!machine().functions.contains(function))
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a function of a loaded module");
  if (function->module->context != context)
    return failWith(CUDA_ERROR_INVALID_HANDLE, "the function belongs to another device's context");
  if (stream != nullptr && !machine().streams.contains(stream))
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a stream, or a destroyed one");
  LaunchRequest request{&function->program, {gridX, gridY, gridZ}, {blockX, blockY, blockZ}, sharedBytes, {}};
  if (const CUresult error = checkShape(*function, request)) return error;
  if (const CUresult error = parametersOf(*function, parameters, extra, request.parameters)) return error;
  return submit(stream, [function, request, context]() -> CUresult {
    if (!machine().functions.contains(function))
      return failWith(CUDA_ERROR_INVALID_HANDLE, "a graph launches a kernel of an unloaded module");
    return runLaunch(request, *context->memory);
  });
}
