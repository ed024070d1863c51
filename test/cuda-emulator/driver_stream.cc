// Streams, events and graphs. Work runs when it is submitted, so that waiting is only checked, never done; a
// capture records the work of its streams in the order of submission, which keeps every order that the events
// ask for.
#include <algorithm>

#include "driver_state.h"

using namespace slim::emulator;

namespace {

CUresult badHandle(const char* what) {
  return failWith(CUDA_ERROR_INVALID_HANDLE, std::string("not ") + what + ", or one that was destroyed");
}

bool isStream(CUstream stream) { return stream == nullptr || machine().streams.contains(stream); }

}  // namespace

CUresult cuStreamCreate(CUstream* stream, unsigned) {
  const std::lock_guard lock(machine().mutex);
  if (machine().current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  *stream = new CUstream_st;
  (*stream)->context = machine().current();
  machine().streams.insert(*stream);
  return CUDA_SUCCESS;
}

CUresult cuStreamDestroy_v2(CUstream stream) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().streams.contains(stream)) return badHandle("a stream");
  if (stream->capture != nullptr)
    return failWith(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "cuStreamDestroy of a stream that captures");
  machine().streams.erase(stream);
  delete stream;
  return CUDA_SUCCESS;
}

CUresult cuStreamSynchronize(CUstream stream) {
  const std::lock_guard lock(machine().mutex);
  if (!isStream(stream)) return badHandle("a stream");
  return forbidDuringCapture("cuStreamSynchronize");
}

CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  const std::lock_guard lock(machine().mutex);
  if (!isStream(stream)) return badHandle("a stream");
  if (!machine().events.contains(event)) return badHandle("an event");
  if (event->capture == nullptr || event->capture->graph == nullptr) return CUDA_SUCCESS;
  if (stream == nullptr) return forbidDuringCapture("cuStreamWaitEvent of the default stream");
  if (stream->capture != nullptr && stream->capture != event->capture) {
    return failWith(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, "cuStreamWaitEvent joins two captures");
  }
  if (stream->capture == nullptr) stream->progress.clear();
  stream->capture = event->capture;
  for (const auto& [other, pieces] : event->progress) {
    size_t& known = stream->progress[other];
    known = std::max(known, pieces);
  }
  return CUDA_SUCCESS;
}

CUresult cuEventCreate(CUevent* event, unsigned) {
  const std::lock_guard lock(machine().mutex);
  if (machine().current() == nullptr) return CUDA_ERROR_INVALID_CONTEXT;
  *event = new CUevent_st;
  machine().events.insert(*event);
  return CUDA_SUCCESS;
}

CUresult cuEventDestroy_v2(CUevent event) {
  const std::lock_guard lock(machine().mutex);
  if (machine().events.erase(event) == 0) return badHandle("an event");
  delete event;
  return CUDA_SUCCESS;
}

CUresult cuEventRecord(CUevent event, CUstream stream) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().events.contains(event)) return badHandle("an event");
  if (!isStream(stream)) return badHandle("a stream");
  event->recorded = true;
  event->capture = stream == nullptr ? nullptr : stream->capture;
  event->progress = event->capture == nullptr ? Progress{} : stream->progress;
  return CUDA_SUCCESS;
}

CUresult cuEventSynchronize(CUevent event) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().events.contains(event)) return badHandle("an event");
  return forbidDuringCapture("cuEventSynchronize");
}

// The emulator has no time: every interval is zero.
CUresult cuEventElapsedTime(float* milliseconds, CUevent start, CUevent end) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().events.contains(start) || !machine().events.contains(end)) return badHandle("an event");
  if (!start->recorded || !end->recorded)
    return failWith(CUDA_ERROR_INVALID_HANDLE, "the elapsed time of an event that was not recorded");
  *milliseconds = 0;
  return CUDA_SUCCESS;
}

CUresult cuEventElapsedTime_v2(float* milliseconds, CUevent start, CUevent end) {
  return cuEventElapsedTime(milliseconds, start, end);
}

CUresult cuStreamBeginCapture_v2(CUstream stream, int) {
  const std::lock_guard lock(machine().mutex);
  if (stream == nullptr)
    return failWith(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, "the default stream cannot capture");
  if (!isStream(stream)) return badHandle("a stream");
  if (stream->capture != nullptr) return failWith(CUDA_ERROR_INVALID_VALUE, "the stream captures already");
  stream->capture = std::make_shared<Capture>();
  stream->capture->origin = stream;
  stream->progress.clear();
  stream->capture->graph = new CUgraph_st;
  return CUDA_SUCCESS;
}

CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  const std::lock_guard lock(machine().mutex);
  *graph = nullptr;
  if (stream == nullptr || !isStream(stream)) return badHandle("a stream");
  if (stream->capture == nullptr || stream->capture->origin != stream) {
    return failWith(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
                    "cuStreamEndCapture on a stream that did not begin the capture");
  }
  const std::shared_ptr<Capture> capture = stream->capture;
  bool joined = true;
  for (const void* handle : machine().streams) {
    auto* other = static_cast<CUstream_st*>(const_cast<void*>(handle));
    if (other->capture != capture) continue;
    joined &= stream->progress[other] >= other->progress[other];
    other->capture = nullptr;
  }
  CUgraph captured = capture->graph;
  capture->graph = nullptr;
  const char* problem = capture->invalid ? "the capture was made invalid by an earlier error" : nullptr;
  if (problem != nullptr || !joined) {
    delete captured;
    return problem != nullptr ? failWith(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, problem)
                              : failWith(CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
                                         "work of another stream is not waited for by the one that captures");
  }
  machine().graphs.insert(captured);
  *graph = captured;
  return CUDA_SUCCESS;
}

CUresult cuGraphInstantiateWithFlags(CUgraphExec* exec, CUgraph graph, unsigned long long) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().graphs.contains(graph)) return badHandle("a graph");
  *exec = new CUgraphExec_st{graph->work};
  machine().graphExecs.insert(*exec);
  return CUDA_SUCCESS;
}

CUresult cuGraphLaunch(CUgraphExec exec, CUstream stream) {
  const std::lock_guard lock(machine().mutex);
  if (!machine().graphExecs.contains(exec)) return badHandle("an executable graph");
  if (!isStream(stream)) return badHandle("a stream");
  machine().launchesGraph = true;
  CUresult error = CUDA_SUCCESS;
  for (size_t i = 0; i < exec->work.size() && error == CUDA_SUCCESS; ++i)
    error = submit(stream, exec->work[i]);
  machine().launchesGraph = false;
  return error;
}

CUresult cuGraphExecDestroy(CUgraphExec exec) {
  const std::lock_guard lock(machine().mutex);
  if (machine().graphExecs.erase(exec) == 0) return badHandle("an executable graph");
  delete exec;
  return CUDA_SUCCESS;
}

CUresult cuGraphDestroy(CUgraph graph) {
  const std::lock_guard lock(machine().mutex);
  if (machine().graphs.erase(graph) == 0) return badHandle("a graph");
  delete graph;
  return CUDA_SUCCESS;
}
