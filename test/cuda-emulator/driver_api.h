// The part of the CUDA driver's interface that the emulator provides, in its own declarations.
#pragma once

#include <cstddef>
#include <cstdint>

using CUresult = int;
using CUdevice = int;
using CUdeviceptr = unsigned long long;
using CUcontext = struct CUctx_st*;
using CUmodule = struct CUmod_st*;
using CUfunction = struct CUfunc_st*;
using CUstream = struct CUstream_st*;
using CUevent = struct CUevent_st*;
using CUgraph = struct CUgraph_st*;
using CUgraphExec = struct CUgraphExec_st*;

enum : CUresult {
  CUDA_SUCCESS = 0,
  CUDA_ERROR_INVALID_VALUE = 1,
  CUDA_ERROR_OUT_OF_MEMORY = 2,
  CUDA_ERROR_NOT_INITIALIZED = 3,
  CUDA_ERROR_NO_DEVICE = 100,
  CUDA_ERROR_INVALID_DEVICE = 101,
  CUDA_ERROR_INVALID_CONTEXT = 201,
  CUDA_ERROR_NO_BINARY_FOR_GPU = 209,
  CUDA_ERROR_INVALID_PTX = 218,
  CUDA_ERROR_INVALID_HANDLE = 400,
  CUDA_ERROR_NOT_FOUND = 500,
  CUDA_ERROR_ILLEGAL_ADDRESS = 700,
  CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES = 701,
  CUDA_ERROR_MISALIGNED_ADDRESS = 716,
  CUDA_ERROR_LAUNCH_FAILED = 719,
  CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED = 900,
  CUDA_ERROR_STREAM_CAPTURE_INVALIDATED = 901,
  CUDA_ERROR_STREAM_CAPTURE_UNMATCHED = 903,
  CUDA_ERROR_STREAM_CAPTURE_UNJOINED = 904,
};

// Keys of cuLaunchKernel's `extra`.
inline void* const kLaunchParamEnd = nullptr;
inline void* const kLaunchParamBufferPointer = reinterpret_cast<void*>(1);
inline void* const kLaunchParamBufferSize = reinterpret_cast<void*>(2);

#define EMULATED extern "C" __attribute__((visibility("default"))) CUresult

EMULATED cuInit(unsigned flags);
EMULATED cuDriverGetVersion(int* version);
EMULATED cuDeviceGetCount(int* count);
EMULATED cuDeviceGet(CUdevice* device, int ordinal);
EMULATED cuDeviceGetName(char* name, int length, CUdevice device);
EMULATED cuDeviceGetAttribute(int* value, int attribute, CUdevice device);
EMULATED cuDeviceTotalMem_v2(size_t* bytes, CUdevice device);
EMULATED cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device);
EMULATED cuDevicePrimaryCtxRelease_v2(CUdevice device);
EMULATED cuCtxSetCurrent(CUcontext context);
EMULATED cuCtxSynchronize();
EMULATED cuMemGetInfo_v2(size_t* free, size_t* total);
EMULATED cuMemAlloc_v2(CUdeviceptr* address, size_t bytes);
EMULATED cuMemFree_v2(CUdeviceptr address);
EMULATED cuMemHostAlloc(void** pointer, size_t bytes, unsigned flags);
EMULATED cuMemFreeHost(void* pointer);
EMULATED cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream);
EMULATED cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream);
EMULATED cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream);
EMULATED cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream);
EMULATED cuStreamCreate(CUstream* stream, unsigned flags);
EMULATED cuStreamDestroy_v2(CUstream stream);
EMULATED cuStreamSynchronize(CUstream stream);
EMULATED cuStreamWaitEvent(CUstream stream, CUevent event, unsigned flags);
EMULATED cuEventCreate(CUevent* event, unsigned flags);
EMULATED cuEventDestroy_v2(CUevent event);
EMULATED cuEventRecord(CUevent event, CUstream stream);
EMULATED cuEventSynchronize(CUevent event);
EMULATED cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end);
EMULATED cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end);
EMULATED cuModuleLoadData(CUmodule* module, const void* image);
EMULATED cuModuleUnload(CUmodule module);
EMULATED cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name);
EMULATED cuFuncSetAttribute(CUfunction function, int attribute, int value);
EMULATED cuFuncGetAttribute(int* value, int attribute, CUfunction function);
EMULATED cuLaunchKernel(CUfunction function, unsigned gridX, unsigned gridY, unsigned gridZ, unsigned blockX,
                        unsigned blockY, unsigned blockZ, unsigned sharedBytes, CUstream stream,
                        void** parameters, void** extra);
EMULATED cuStreamBeginCapture_v2(CUstream stream, int mode);
EMULATED cuStreamEndCapture(CUstream stream, CUgraph* graph);
EMULATED cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long flags);
EMULATED cuGraphLaunch(CUgraphExec exec, CUstream stream);
EMULATED cuGraphExecDestroy(CUgraphExec exec);
EMULATED cuGraphDestroy(CUgraph graph);
EMULATED cuGetErrorName(CUresult error, const char** name);
EMULATED cuGetErrorString(CUresult error, const char** text);

#undef EMULATED
