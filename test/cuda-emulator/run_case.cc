// Runs a case on a CUDA driver: a line a command from standard input, a line of JSON a command on standard
// output.
//   run_case LIBRARY < case
// Commands (NAME names a buffer, whose address a kernel's argument @NAME[+OFFSET] is):
// - device N; unload; release: the last releases the device's context
// - module FILE; function KERNEL; dynamic KERNEL BYTES; get KERNEL ATTRIBUTE
// - allocate NAME BYTES; free NAME; write NAME FILE; fill NAME VALUE; read NAME FILE; copy TO FROM BYTES
// - allocateHost NAME BYTES; freeHost NAME
// - launch KERNEL GX GY GZ BX BY BZ SHARED [u32:N | s32:N | u64:N | f32:X | @NAME[+OFFSET] …]
// - launchPointers …: the same with the arguments passed by kernelParams
// - stream NAME: where further work goes; destroy NAME; record EVENT; wait EVENT; synchronize; elapsed
// - capture; end; replay
// Buffers live on the device that was chosen last; arguments are laid out as C lays out a struct.
#include <dlfcn.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <sstream>
#include <string>
#include <vector>

#include "driver_api.h"

namespace {

template <class F>
F* symbol(void* library, const char* name) {
  auto* address = reinterpret_cast<F*>(dlsym(library, name));
  if (address == nullptr) {
    std::fprintf(stderr, "the library has no %s\n", name);
    std::exit(2);
  }
  return address;
}

std::string quoted(const char* text) {
  std::string json = "\"";
  for (; text != nullptr && *text != '\0'; text++) {
    if (*text == '"' || *text == '\\') json += '\\';
    if (*text == '\n')
      json += "\\n";
    else
      json += *text;
  }
  return json + '"';
}

struct Buffer {
  CUdeviceptr address;
  size_t bytes;
};

class Runner {
 public:
  explicit Runner(void* library) : library_(library) {}

  CUresult execute(const std::string& command, std::istream& words) {
    if (command == "device") return chooseDevice(next(words));
    if (command == "module") return loadModule(text(words));
    if (command == "function") return function(text(words));
    if (command == "allocate") return allocate(words);
    if (command == "write") return write(words);
    if (command == "fill") return fill(words);
    if (command == "read") return read(words);
    if (command == "copy") return copy(words);
    if (command == "free") return call<decltype(cuMemFree_v2)>("cuMemFree_v2", buffers_[text(words)].address);
    if (command == "dynamic") return setDynamic(words);
    if (command == "get") return getAttribute(words);
    if (command == "launch") return launch(words, false);
    if (command == "launchPointers") return launch(words, true);
    if (command == "allocateHost") return allocateHost(words);
    if (command == "freeHost")
      return call<decltype(cuMemFreeHost)>("cuMemFreeHost", hostMemory_[text(words)]);
    if (command == "stream") return chooseStream(text(words));
    if (command == "destroy")
      return call<decltype(cuStreamDestroy_v2)>("cuStreamDestroy_v2", streams_[text(words)]);
    if (command == "record") return record(text(words));
    if (command == "wait")
      return call<decltype(cuStreamWaitEvent)>("cuStreamWaitEvent", stream_, events_[text(words)], 0u);
    if (command == "capture") return beginCapture();
    if (command == "end") return endCapture();
    if (command == "replay") return call<decltype(cuGraphLaunch)>("cuGraphLaunch", exec_, stream_);
    if (command == "synchronize") return call<decltype(cuStreamSynchronize)>("cuStreamSynchronize", stream_);
    if (command == "elapsed") return elapsed();
    if (command == "unload") return call<decltype(cuModuleUnload)>("cuModuleUnload", module_);
    if (command == "release")
      return call<decltype(cuDevicePrimaryCtxRelease_v2)>("cuDevicePrimaryCtxRelease_v2", device_);
    std::fprintf(stderr, "unknown command %s\n", command.c_str());
    std::exit(2);
  }

  std::string describe(CUresult error) {
    const char *name = nullptr, *what = nullptr;
    call<decltype(cuGetErrorName)>("cuGetErrorName", error, &name);
    call<decltype(cuGetErrorString)>("cuGetErrorString", error, &what);
    return "\"error\": " + std::to_string(error) + ", \"name\": " + quoted(name) +
           ", \"text\": " + quoted(error == 0 ? "" : what);
  }

  std::string extra;  // further fields of the command's line

 private:
  // Calls the library's function of this name, whose type is that of the declaration.
  template <class F, class... A>
  CUresult call(const char* name, A... arguments) {
    return symbol<F>(library_, name)(arguments...);
  }

  static std::string text(std::istream& words) {
    std::string word;
    words >> word;
    return word;
  }
  static size_t next(std::istream& words) { return std::stoull(text(words), nullptr, 0); }

  CUresult chooseDevice(size_t ordinal) {
    if (const CUresult error = call<decltype(cuInit)>("cuInit", 0u)) return error;
    if (const CUresult error =
            call<decltype(cuDeviceGet)>("cuDeviceGet", &device_, static_cast<int>(ordinal)))
      return error;
    char name[64] = {};
    int major = 0, minor = 0;
    call<decltype(cuDeviceGetName)>("cuDeviceGetName", name, 64, device_);
    call<decltype(cuDeviceGetAttribute)>("cuDeviceGetAttribute", &major, 75, device_);
    call<decltype(cuDeviceGetAttribute)>("cuDeviceGetAttribute", &minor, 76, device_);
    extra = ", \"device\": " + quoted(name) + ", \"capability\": " + std::to_string(10 * major + minor);
    CUcontext context;
    if (const CUresult error =
            call<decltype(cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain", &context, device_))
      return error;
    return call<decltype(cuCtxSetCurrent)>("cuCtxSetCurrent", context);
  }

  static std::string contents(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      std::fprintf(stderr, "cannot read %s\n", path.c_str());
      std::exit(2);
    }
    return {std::istreambuf_iterator<char>(file), {}};
  }

  CUresult loadModule(const std::string& path) {
    const std::string image = contents(path);
    return call<decltype(cuModuleLoadData)>("cuModuleLoadData", &module_, image.c_str());
  }

  CUresult function(const std::string& name) {
    return call<decltype(cuModuleGetFunction)>("cuModuleGetFunction", &functions_[name], module_,
                                               name.c_str());
  }

  CUresult find(const std::string& name, CUfunction& found) {
    const CUresult error = function(name);
    found = functions_[name];
    return error;
  }

  CUresult allocate(std::istream& words) {
    Buffer& buffer = buffers_[text(words)];
    buffer.bytes = next(words);
    return call<decltype(cuMemAlloc_v2)>("cuMemAlloc_v2", &buffer.address, buffer.bytes);
  }

  CUresult allocateHost(std::istream& words) {
    void*& pointer = hostMemory_[text(words)];
    return call<decltype(cuMemHostAlloc)>("cuMemHostAlloc", &pointer, next(words), 0u);
  }

  CUresult write(std::istream& words) {
    const Buffer buffer = buffers_[text(words)];
    const std::string bytes = contents(text(words));
    return call<decltype(cuMemcpyHtoDAsync_v2)>("cuMemcpyHtoDAsync_v2", buffer.address,
                                                static_cast<const void*>(bytes.data()), bytes.size(),
                                                CUstream{nullptr});
  }

  CUresult fill(std::istream& words) {
    const Buffer buffer = buffers_[text(words)];
    return call<decltype(cuMemsetD8Async)>("cuMemsetD8Async", buffer.address,
                                           static_cast<unsigned char>(next(words)), buffer.bytes, stream_);
  }

  CUresult read(std::istream& words) {
    const Buffer buffer = buffers_[text(words)];
    std::vector<char> bytes(buffer.bytes);
    const CUresult error =
        call<decltype(cuMemcpyDtoHAsync_v2)>("cuMemcpyDtoHAsync_v2", static_cast<void*>(bytes.data()),
                                             buffer.address, bytes.size(), CUstream{nullptr});
    std::ofstream(text(words), std::ios::binary)
        .write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return error;
  }

  CUresult copy(std::istream& words) {
    const CUdeviceptr to = buffers_[text(words)].address, from = buffers_[text(words)].address;
    return call<decltype(cuMemcpyDtoDAsync_v2)>("cuMemcpyDtoDAsync_v2", to, from, next(words), stream_);
  }

  CUresult setDynamic(std::istream& words) {
    CUfunction kernel;
    if (const CUresult error = find(text(words), kernel)) return error;
    return call<decltype(cuFuncSetAttribute)>("cuFuncSetAttribute", kernel, 8, static_cast<int>(next(words)));
  }

  CUresult getAttribute(std::istream& words) {
    CUfunction kernel;
    if (const CUresult error = find(text(words), kernel)) return error;
    int value = 0;
    const CUresult error = call<decltype(cuFuncGetAttribute)>("cuFuncGetAttribute", &value,
                                                              static_cast<int>(next(words)), kernel);
    extra = ", \"value\": " + std::to_string(value);
    return error;
  }

  // Appends an argument and returns its offset.
  template <class T>
  static size_t append(std::vector<char>& parameters, T value) {
    parameters.resize((parameters.size() + sizeof value - 1) / sizeof value * sizeof value);
    const auto* bytes = reinterpret_cast<const char*>(&value);
    parameters.insert(parameters.end(), bytes, bytes + sizeof value);
    return parameters.size() - sizeof value;
  }

  size_t appendArgument(std::vector<char>& parameters, const std::string& word) {
    const std::string value = word.substr(word.find(':') + 1);
    if (word[0] == '@') {
      const size_t plus = word.find('+');
      const CUdeviceptr offset = plus == std::string::npos ? 0 : std::stoull(word.substr(plus + 1));
      return append(parameters, buffers_[word.substr(1, plus - 1)].address + offset);
    }
    if (word.starts_with("f32:")) return append(parameters, std::stof(value));
    if (word.starts_with("u64:")) return append(parameters, std::stoull(value, nullptr, 0));
    return append(parameters, static_cast<uint32_t>(std::stoll(value, nullptr, 0)));
  }

  CUresult launch(std::istream& words, bool byPointers) {
    CUfunction kernel;
    if (const CUresult error = find(text(words), kernel)) return error;
    unsigned shape[7];
    for (unsigned& n : shape) n = static_cast<unsigned>(next(words));
    std::vector<char> parameters;
    std::vector<size_t> offsets;
    for (std::string word; words >> word;) offsets.push_back(appendArgument(parameters, word));
    size_t bytes = parameters.size();
    std::vector<void*> pointers;
    for (const size_t offset : offsets) pointers.push_back(parameters.data() + offset);
    void* options[] = {kLaunchParamBufferPointer, parameters.data(), kLaunchParamBufferSize, &bytes,
                       kLaunchParamEnd};
    return call<decltype(cuLaunchKernel)>(
        "cuLaunchKernel", kernel, shape[0], shape[1], shape[2], shape[3], shape[4], shape[5], shape[6],
        stream_, byPointers ? pointers.data() : nullptr, byPointers ? nullptr : static_cast<void**>(options));
  }

  CUresult chooseStream(const std::string& name) {
    const auto [known, isNew] = streams_.try_emplace(name, nullptr);
    const CUresult error =
        isNew ? call<decltype(cuStreamCreate)>("cuStreamCreate", &known->second, 1u) : CUDA_SUCCESS;
    stream_ = known->second;
    return error;
  }

  CUresult record(const std::string& name) {
    const auto [known, isNew] = events_.try_emplace(name, nullptr);
    if (isNew) call<decltype(cuEventCreate)>("cuEventCreate", &known->second, 0u);
    return call<decltype(cuEventRecord)>("cuEventRecord", known->second, stream_);
  }

  CUresult beginCapture() {
    if (stream_ == nullptr) {
      if (const CUresult error = chooseStream("")) return error;
    }
    return call<decltype(cuStreamBeginCapture_v2)>("cuStreamBeginCapture_v2", stream_, 1);
  }

  CUresult endCapture() {
    CUgraph graph;
    if (const CUresult error = call<decltype(cuStreamEndCapture)>("cuStreamEndCapture", stream_, &graph))
      return error;
    const CUresult error =
        call<decltype(cuGraphInstantiateWithFlags)>("cuGraphInstantiateWithFlags", &exec_, graph, 0ull);
    call<decltype(cuGraphDestroy)>("cuGraphDestroy", graph);
    return error;
  }

  CUresult elapsed() {
    CUevent start, end;
    float milliseconds = -1;
    call<decltype(cuEventCreate)>("cuEventCreate", &start, 0u);
    call<decltype(cuEventCreate)>("cuEventCreate", &end, 0u);
    call<decltype(cuEventRecord)>("cuEventRecord", start, stream_);
    call<decltype(cuEventRecord)>("cuEventRecord", end, stream_);
    const CUresult error =
        call<decltype(cuEventElapsedTime_v2)>("cuEventElapsedTime_v2", &milliseconds, start, end);
    call<decltype(cuEventDestroy_v2)>("cuEventDestroy_v2", start);
    call<decltype(cuEventDestroy_v2)>("cuEventDestroy_v2", end);
    extra = ", \"value\": " + std::to_string(milliseconds);
    return error;
  }

  void* library_;
  CUdevice device_ = 0;
  CUmodule module_ = nullptr;
  CUstream stream_ = nullptr;
  CUgraphExec exec_ = nullptr;
  std::map<std::string, CUfunction> functions_;
  std::map<std::string, Buffer> buffers_;
  std::map<std::string, void*> hostMemory_;
  std::map<std::string, CUstream> streams_;
  std::map<std::string, CUevent> events_;
};

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: run_case LIBRARY < case\n");
    return 2;
  }
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "%s\n", dlerror());
    return 2;
  }
  Runner runner(library);
  for (std::string line; std::getline(std::cin, line);) {
    std::istringstream words(line);
    std::string command;
    if (!(words >> command)) continue;
    runner.extra.clear();
    const CUresult error = runner.execute(command, words);
    std::printf("{\"command\": %s, %s%s}\n", quoted(line.c_str()).c_str(), runner.describe(error).c_str(),
                runner.extra.c_str());
  }
  return 0;
}
