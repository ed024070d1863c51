#include "driver_state.h"

#include <cstdio>
#include <cstdlib>

#include "findings.h"

namespace slim::emulator {

namespace {

thread_local CUcontext currentContext = nullptr;

// What is still held when the process ends was never given back. The machine itself outlives static
// destructors.
__attribute__((destructor)) void reportAtEnd() {
  for (const auto& context : machine().devices) {
    const std::string leaks = leaksOf(*context);
    if (context->retained == 0 || leaks.empty()) continue;
    const std::string text =
        "device " + std::to_string(context->ordinal) + " at the end of the process: " + leaks;
    recordFinding({kErrorLaunchFailed, "leak", text});
    std::fprintf(stderr, "cuda emulator: %s\n", text.c_str());
  }
}

}  // namespace

Machine& machine() {
  static auto* theMachine = new Machine;
  return *theMachine;
}

CUctx_st* Machine::current() const { return currentContext; }

void setCurrent(CUcontext context) { currentContext = context; }

CUresult failWith(CUresult error, const std::string& text) {
  rememberError(error, text);
  return error;
}

CUresult submit(CUstream stream, Work work) {
  if (stream != nullptr && stream->capture != nullptr) {
    Capture& capture = *stream->capture;
    if (capture.invalid)
      return failWith(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
                      "this capture was made invalid by an earlier error");
    capture.graph->work.push_back(std::move(work));
    stream->progress[stream]++;
    return CUDA_SUCCESS;
  }
  if (stream == nullptr) {
    // The default stream waits for all others, which a capture cannot record.
    const CUresult error = forbidDuringCapture("work on the default stream");
    if (error != CUDA_SUCCESS) return error;
  }
  return work();
}

CUresult forbidDuringCapture(const char* function) {
  for (const void* handle : machine().streams) {
    const auto* stream = static_cast<const CUstream_st*>(handle);
    if (stream->capture == nullptr) continue;
    stream->capture->invalid = true;
    return failWith(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
                    std::string(function) + " while a stream captures");
  }
  return CUDA_SUCCESS;
}

uint64_t environmentNumber(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr || *text == '\0' ? otherwise : std::strtoull(text, nullptr, 0);
}

uint32_t sharedLimit(int computeCapability) {
  switch (computeCapability) {
    case 80:
    case 87:
      return 163 * 1024;
    case 86:
    case 89:
    case 120:
    case 121:
      return 99 * 1024;
    default:
      return 227 * 1024;
  }
}

std::string leaksOf(const CUctx_st& context) {
  std::string leaks = context.memory->leaks();
  const auto add = [&](size_t count, const char* what) {
    if (count != 0) leaks += (leaks.empty() ? "" : "; ") + std::to_string(count) + " " + what;
  };
  const Machine& all = machine();
  size_t streams = 0;
  for (const void* stream : all.streams)
    streams += static_cast<const CUstream_st*>(stream)->context == &context;
  size_t modules = 0;
  for (const void* module : all.modules) modules += static_cast<const CUmod_st*>(module)->context == &context;
  size_t host = 0;
  for (const auto& [pointer, owner] : all.hostMemory) host += owner == &context;
  add(host, "pieces of pinned host memory never freed");
  add(streams, "streams never destroyed");
  add(modules, "modules never unloaded");
  return leaks;
}

}  // namespace slim::emulator
