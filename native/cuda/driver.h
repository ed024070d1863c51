// The CUDA driver API as a table of functions, opened at run time: nothing of CUDA is needed to build or to
// run without a GPU. The library is the one that SLIMLLM_CUDA_DRIVER names (the seam that test/cuda-emulator
// stands behind), else libcuda.so.1. Types are the driver API's own, by their sizes.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

#include "core/status.h"

namespace slim::cuda {

using Result = int;  // CUresult
using DeviceAddress = uint64_t;
using Handle = void*;  // contexts, streams, events, modules, functions, graphs

constexpr Result kErrorOutOfMemory = 2;

struct Driver {
  Result (*init)(unsigned flags);
  Result (*driverGetVersion)(int* version);
  Result (*deviceGetCount)(int* count);
  Result (*deviceGet)(int* device, int ordinal);
  Result (*deviceGetName)(char* name, int length, int device);
  Result (*deviceGetAttribute)(int* value, int attribute, int device);
  Result (*deviceTotalMem)(size_t* bytes, int device);
  Result (*primaryContextRetain)(Handle* context, int device);
  Result (*primaryContextRelease)(int device);
  Result (*contextSetCurrent)(Handle context);
  Result (*memoryInfo)(size_t* free, size_t* total);
  Result (*memoryAllocate)(DeviceAddress* address, size_t bytes);
  Result (*memoryFree)(DeviceAddress address);
  Result (*copyToDevice)(DeviceAddress to, const void* from, size_t bytes, Handle stream);
  Result (*copyToHost)(void* to, DeviceAddress from, size_t bytes, Handle stream);
  Result (*copyOnDevice)(DeviceAddress to, DeviceAddress from, size_t bytes, Handle stream);
  Result (*fillBytes)(DeviceAddress to, unsigned char value, size_t bytes, Handle stream);
  Result (*streamCreate)(Handle* stream, unsigned flags);
  Result (*streamDestroy)(Handle stream);
  Result (*streamSynchronize)(Handle stream);
  Result (*eventCreate)(Handle* event, unsigned flags);
  Result (*eventDestroy)(Handle event);
  Result (*eventRecord)(Handle event, Handle stream);
  Result (*eventSynchronize)(Handle event);
  Result (*eventElapsedTime)(float* milliseconds, Handle start, Handle end);
  Result (*moduleLoadData)(Handle* module, const void* image);
  Result (*moduleUnload)(Handle module);
  Result (*moduleGetFunction)(Handle* function, Handle module, const char* name);
  Result (*functionSetAttribute)(Handle function, int attribute, int value);
  Result (*functionGetAttribute)(int* value, int attribute, Handle function);
  Result (*launchKernel)(Handle function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                         unsigned blockY, unsigned blockZ, unsigned sharedBytes, Handle stream,
                         void** parameters, void** extra);
  Result (*streamBeginCapture)(Handle stream, int mode);
  Result (*streamEndCapture)(Handle stream, Handle* graph);
  Result (*graphInstantiate)(Handle* executable, Handle graph, unsigned long long flags);
  Result (*graphLaunch)(Handle executable, Handle stream);
  Result (*graphExecDestroy)(Handle executable);
  Result (*graphDestroy)(Handle graph);
  Result (*getErrorName)(Result result, const char** name);
  Result (*getErrorString)(Result result, const char** text);

  std::string path;

  /// Opens the library (once a path and process) and calls cuInit. A failure says what was tried.
  static Status open(const Driver*& out);

  /// Success, or an error with the function's name, what it was about, and the driver's words.
  Status check(Result result, const char* function, const std::string& about = "") const;
};

}  // namespace slim::cuda
