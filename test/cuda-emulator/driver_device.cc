// Devices, contexts, errors.
#include <cstdio>
#include <cstring>

#include "driver_state.h"
#include "findings.h"

using namespace slim::emulator;

namespace {

constexpr int kDriverVersion = 13000;
constexpr uint64_t kDefaultMemory = uint64_t{16} << 30;

struct ErrorName {
  CUresult error;
  const char *name, *text;
};

constexpr ErrorName kErrors[] = {
    {CUDA_SUCCESS, "CUDA_SUCCESS", "no error"},
    {CUDA_ERROR_INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {CUDA_ERROR_OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {CUDA_ERROR_NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {CUDA_ERROR_NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no device"},
    {CUDA_ERROR_INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {CUDA_ERROR_INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {CUDA_ERROR_NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU",
     "no kernel image is available for execution on the device"},
    {CUDA_ERROR_INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {CUDA_ERROR_INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {CUDA_ERROR_NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {CUDA_ERROR_ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES",
     "too many resources requested for launch"},
    {CUDA_ERROR_MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {CUDA_ERROR_LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
     "operation not permitted when stream is capturing"},
    {CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
     "operation failed due to a previous error during capture"},
    {CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED",
     "capture was not initiated in this stream"},
    {CUDA_ERROR_STREAM_CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
     "capturing stream has unjoined work"},
};

struct Attribute {
  int attribute, value;
};

// Numbers of CUdevice_attribute; an A100's where they only describe.
constexpr Attribute kAttributes[] = {
    {1, 1024},  {2, 1024},   {3, 1024}, {4, 64},          {5, 2147483647}, {6, 65535},    {7, 65535},
    {8, 49152}, {9, 65536},  {10, 32},  {11, 2147483647}, {12, 65536},     {13, 1410000}, {14, 512},
    {15, 1},    {16, 108},   {17, 0},   {18, 0},          {19, 1},         {20, 0},       {31, 1},
    {32, 1},    {33, 0},     {34, 0},   {35, 0},          {36, 1215000},   {37, 5120},    {38, 41943040},
    {39, 2048}, {40, 2},     {41, 1},   {50, 0},          {82, 65536},     {83, 0},       {95, 0},
    {106, 32},  {111, 1024}, {115, 0},
};

constexpr int kMajor = 75, kMinor = 76, kSharedPerMultiprocessor = 81, kSharedOptIn = 97;

CUctx_st* deviceOf(CUdevice device) {
  Machine& all = machine();
  return all.initialized && device >= 0 && device < static_cast<int>(all.devices.size())
             ? all.devices[device].get()
             : nullptr;
}

uint64_t memoryBytes() { return environmentNumber("SLIM_EMULATOR_MEMORY", kDefaultMemory); }

}  // namespace

CUresult cuInit(unsigned flags) {
  Machine& all = machine();
  const std::lock_guard lock(all.mutex);
  if (flags != 0) return failWith(CUDA_ERROR_INVALID_VALUE, "cuInit: flags must be 0");
  if (all.initialized) return CUDA_SUCCESS;
  all.computeCapability = static_cast<int>(environmentNumber("SLIM_EMULATOR_CC", 80));
  const auto count = static_cast<int>(environmentNumber("SLIM_EMULATOR_DEVICES", 1));
  if (count == 0) return failWith(CUDA_ERROR_NO_DEVICE, "cuInit: SLIM_EMULATOR_DEVICES is 0");
  for (int i = 0; i < count; i++) {
    auto device = std::make_unique<CUctx_st>();
    device->ordinal = i;
    device->memory = std::make_unique<DeviceMemory>(i, memoryBytes());
    all.devices.push_back(std::move(device));
  }
  all.initialized = true;
  return CUDA_SUCCESS;
}

CUresult cuDriverGetVersion(int* version) {
  *version = kDriverVersion;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetCount(int* count) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().initialized) return CUDA_ERROR_NOT_INITIALIZED;
  *count = static_cast<int>(machine().devices.size());
  return CUDA_SUCCESS;
}

CUresult cuDeviceGet(CUdevice* device, int ordinal) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().initialized) return CUDA_ERROR_NOT_INITIALIZED;
  if (deviceOf(ordinal) == nullptr) {
    return failWith(CUDA_ERROR_INVALID_DEVICE,
                    "device " + std::to_string(ordinal) + " of " + std::to_string(machine().devices.size()));
  }
  *device = ordinal;
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetName(char* name, int length, CUdevice device) {
  const std::lock_guard lock(machine().mutex);
  if (deviceOf(device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  std::snprintf(name, static_cast<size_t>(length), "slimllm emulated device");
  return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, int attribute, CUdevice device) {
  const std::lock_guard lock(machine().mutex);
  if (deviceOf(device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  const int capability = machine().computeCapability;
  const auto shared = static_cast<int>(sharedLimit(capability));
  switch (attribute) {
    case kMajor:
      *value = capability / 10;
      return CUDA_SUCCESS;
    case kMinor:
      *value = capability % 10;
      return CUDA_SUCCESS;
    case kSharedPerMultiprocessor:
      *value = shared + 1024;
      return CUDA_SUCCESS;
    case kSharedOptIn:
      *value = shared;
      return CUDA_SUCCESS;
    default:
      break;
  }
  for (const Attribute& known : kAttributes) {
    if (known.attribute != attribute) continue;
    *value = known.value;
    return CUDA_SUCCESS;
  }
  return failWith(CUDA_ERROR_INVALID_VALUE,
                  "device attribute " + std::to_string(attribute) + " is not one that the emulator knows");
}

CUresult cuDeviceTotalMem_v2(size_t* bytes, CUdevice device) {
  const std::lock_guard lock(machine().mutex);
  if (deviceOf(device) == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  *bytes = deviceOf(device)->memory->totalBytes();
  return CUDA_SUCCESS;
}

CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* found = deviceOf(device);
  if (found == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  found->retained++;
  *context = found;
  return CUDA_SUCCESS;
}

// The last release frees what the context held; what nobody had freed is a finding.
CUresult cuDevicePrimaryCtxRelease_v2(CUdevice device) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* found = deviceOf(device);
  if (found == nullptr) return CUDA_ERROR_INVALID_DEVICE;
  if (found->retained == 0)
    return failWith(CUDA_ERROR_INVALID_CONTEXT,
                    "the primary context is released more often than it was retained");
  if (--found->retained > 0) return CUDA_SUCCESS;
  const std::string leaks = leaksOf(*found);
  found->memory = std::make_unique<DeviceMemory>(device, memoryBytes());
  if (leaks.empty()) return CUDA_SUCCESS;
  recordFinding({kErrorLaunchFailed, "leak",
                 "device " + std::to_string(device) + " at the release of its context: " + leaks});
  return CUDA_ERROR_LAUNCH_FAILED;
}

CUresult cuCtxSetCurrent(CUcontext context) {
  const std::lock_guard lock(machine().mutex);
  if (context != nullptr && context->retained == 0)
    return failWith(CUDA_ERROR_INVALID_CONTEXT, "the context has been released");
  setCurrent(context);
  return CUDA_SUCCESS;
}

CUresult cuCtxSynchronize() {
  const std::lock_guard lock(machine().mutex);
  if (machine().current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  return forbidDuringCapture("cuCtxSynchronize");
}

CUresult cuGetErrorName(CUresult error, const char** name) {
  for (const ErrorName& known : kErrors) {
    if (known.error != error) continue;
    *name = known.name;
    return CUDA_SUCCESS;
  }
  *name = nullptr;
  return CUDA_ERROR_INVALID_VALUE;
}

// The latest text for this code says what was found; the driver's own words stand where there is none.
CUresult cuGetErrorString(CUresult error, const char** text) {
  const std::lock_guard lock(machine().mutex);
  *text = rememberedError(error);
  if (*text != nullptr) return CUDA_SUCCESS;
  for (const ErrorName& known : kErrors) {
    if (known.error == error) *text = known.text;
  }
  return *text != nullptr ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
