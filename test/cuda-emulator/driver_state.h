// The objects behind the driver's handles, and the state of the emulated machine.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "device_memory.h"
#include "driver_api.h"
#include "program.h"
#include "syntax.h"

// The opaque types of the interface are the objects themselves.
struct CUctx_st {
  int ordinal = 0;
  int retained = 0;
  std::unique_ptr<slim::emulator::DeviceMemory> memory;
};

struct CUfunc_st {
  CUmodule module = nullptr;
  slim::emulator::Program program;
  std::vector<std::pair<uint64_t, uint64_t>> parameters;  // offset and bytes
  int dynamicShared = 0;                                  // allowed beyond what static memory leaves of 48 KB
};

struct CUmod_st {
  CUcontext context = nullptr;
  slim::emulator::Module syntax;
  std::map<std::string, uint64_t> addresses;
  std::map<std::string, std::unique_ptr<CUfunc_st>> functions;
};

using Work = std::function<CUresult()>;

// Streams that capture together, joined by events; their work is one sequence in the order of submission.
struct CUgraph_st {
  std::vector<Work> work;
};

// How many pieces of each stream's captured work lie before a point.
using Progress = std::map<CUstream, size_t>;

struct Capture {
  CUgraph graph = nullptr;
  CUstream origin = nullptr;
  bool invalid = false;
};

struct CUstream_st {
  CUcontext context = nullptr;
  std::shared_ptr<Capture> capture;
  Progress progress;
};

struct CUevent_st {
  bool recorded = false;
  std::shared_ptr<Capture> capture;
  Progress progress;  // of the stream where it was recorded
};

struct CUgraphExec_st {
  std::vector<Work> work;
};

namespace slim::emulator {

struct Machine {
  std::mutex mutex;
  bool initialized = false;
  int computeCapability = 80;
  std::vector<std::unique_ptr<CUctx_st>> devices;
  bool launchesGraph = false;  // the work that runs belongs to a graph
  std::set<const void*> streams, events, modules, functions, graphs, graphExecs;
  std::map<void*, CUcontext> hostMemory;
  CUctx_st* current() const;
};

Machine& machine();
void setCurrent(CUcontext context);

// An error with a text of its own for cuGetErrorString.
CUresult failWith(CUresult error, const std::string& text);

// Runs the work now, or records it when the stream captures.
CUresult submit(CUstream stream, Work work);

// Whether a call that waits or allocates may be made; not while any stream captures.
CUresult forbidDuringCapture(const char* function);

// A whole-number environment variable.
uint64_t environmentNumber(const char* name, uint64_t otherwise);

uint32_t sharedLimit(int computeCapability);  // bytes a block may opt in to

// Says which resources of a context are still held, as a finding; empty when none are.
std::string leaksOf(const CUctx_st& context);

}  // namespace slim::emulator
