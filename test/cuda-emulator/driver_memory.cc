// Device and host memory, copies.
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "driver_state.h"
#include "findings.h"

using namespace slim::emulator;

namespace {

constexpr size_t kHostAlign = 4096;

// Every call that works on the current device begins with this.
CUresult withContext(CUctx_st*& context, CUstream stream = nullptr) {
  context = machine().current();
  if (context == nullptr) return failWith(CUDA_ERROR_INVALID_CONTEXT, "no context is current on this thread");
  if (stream != nullptr && !machine().streams.contains(stream))
    return failWith(CUDA_ERROR_INVALID_HANDLE, "not a stream, or a destroyed one");
  return CUDA_SUCCESS;
}

CUresult outside(DeviceMemory& memory, const char* function, CUdeviceptr address, size_t bytes) {
  const Allocation* allocation = memory.find(address);
  return failWith(
      CUDA_ERROR_INVALID_VALUE,
      std::string(function) + ": " + std::to_string(bytes) + " bytes of device memory at " +
          hexadecimal(address) +
          (allocation == nullptr ? ", which is " + memory.describe(address)
                                 : " reach past the end of " + memory.describe(address).substr(11)));
}

void recordDownload(size_t bytes) {
  const char* path = std::getenv("SLIM_EMULATOR_DOWNLOADS");
  if (path == nullptr || *path == '\0') return;
  if (FILE* file = std::fopen(path, "a")) {
    std::fprintf(file, "%zu\n", bytes);
    std::fclose(file);
  }
}

/// Queues `fill`, which writes all bytes from `to` on.
template <typename Fill>
CUresult write(const char* function, CUdeviceptr to, size_t bytes, CUstream stream, const Fill& fill) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context, stream)) return error;
  if (bytes == 0) return CUDA_SUCCESS;
  return submit(stream, [=]() -> CUresult {
    Allocation* allocation = context->memory->findRange(to, bytes);
    if (allocation == nullptr) return outside(*context->memory, function, to, bytes);
    fill(allocation->data + (to - allocation->address));
    allocation->markRangeWritten(to - allocation->address, bytes);
    return CUDA_SUCCESS;
  });
}

}  // namespace

CUresult cuMemGetInfo_v2(size_t* free, size_t* total) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context)) return error;
  *free = context->memory->freeBytes();
  *total = context->memory->totalBytes();
  return CUDA_SUCCESS;
}

CUresult cuMemAlloc_v2(CUdeviceptr* address, size_t bytes) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context)) return error;
  if (const CUresult error = forbidDuringCapture("cuMemAlloc")) return error;
  if (bytes == 0) return failWith(CUDA_ERROR_INVALID_VALUE, "cuMemAlloc of 0 bytes");
  *address = context->memory->allocate(bytes, "");
  if (*address != 0) return CUDA_SUCCESS;
  return failWith(CUDA_ERROR_OUT_OF_MEMORY, "cuMemAlloc of " + std::to_string(bytes) + " bytes where " +
                                                std::to_string(context->memory->freeBytes()) + " are free");
}

CUresult cuMemFree_v2(CUdeviceptr address) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context)) return error;
  if (const CUresult error = forbidDuringCapture("cuMemFree")) return error;
  if (address == 0) return CUDA_SUCCESS;
  if (context->memory->release(address)) return CUDA_SUCCESS;
  return failWith(CUDA_ERROR_INVALID_VALUE, "cuMemFree of " + hexadecimal(address) +
                                                ", which is no allocation's address but " +
                                                context->memory->describe(address));
}

CUresult cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context)) return error;
  if (const CUresult error = forbidDuringCapture("cuMemHostAlloc")) return error;
  if (bytes == 0) return failWith(CUDA_ERROR_INVALID_VALUE, "cuMemHostAlloc of 0 bytes");
  *pointer = std::aligned_alloc(kHostAlign, (bytes + kHostAlign - 1) / kHostAlign * kHostAlign);
  if (*pointer == nullptr) return CUDA_ERROR_OUT_OF_MEMORY;
  machine().hostMemory[*pointer] = context;
  return CUDA_SUCCESS;
}

CUresult cuMemFreeHost(void* pointer) {
  const std::lock_guard lock(machine().mutex);
  if (machine().hostMemory.erase(pointer) == 0)
    return failWith(CUDA_ERROR_INVALID_VALUE, "cuMemFreeHost of memory that cuMemHostAlloc did not give");
  std::free(pointer);
  return CUDA_SUCCESS;
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t bytes, CUstream stream) {
  return write("cuMemcpyHtoDAsync", to, bytes, stream,
               [=](uint8_t* data) { std::memcpy(data, from, bytes); });
}

CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t bytes, CUstream stream) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context, stream)) return error;
  if (bytes == 0) return CUDA_SUCCESS;
  return submit(stream, [=]() -> CUresult {
    const Allocation* allocation = context->memory->findRange(from, bytes);
    if (allocation == nullptr) return outside(*context->memory, "cuMemcpyDtoHAsync", from, bytes);
    std::memcpy(to, allocation->data + (from - allocation->address), bytes);
    recordDownload(bytes);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream) {
  const std::lock_guard lock(machine().mutex);
  CUctx_st* context;
  if (const CUresult error = withContext(context, stream)) return error;
  if (bytes == 0) return CUDA_SUCCESS;
  return submit(stream, [=]() -> CUresult {
    const Allocation* source = context->memory->findRange(from, bytes);
    if (source == nullptr) return outside(*context->memory, "cuMemcpyDtoDAsync", from, bytes);
    Allocation* result = context->memory->findRange(to, bytes);
    if (result == nullptr) return outside(*context->memory, "cuMemcpyDtoDAsync", to, bytes);
    std::memmove(result->data + (to - result->address), source->data + (from - source->address), bytes);
    result->copyWritten(to - result->address, *source, from - source->address, bytes);
    return CUDA_SUCCESS;
  });
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t bytes, CUstream stream) {
  return write("cuMemsetD8Async", to, bytes, stream, [=](uint8_t* data) { std::memset(data, value, bytes); });
}
