#include "cuda/driver.h"

#include <dlfcn.h>

#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>

namespace slim::cuda {
namespace {

constexpr const char* kVariable = "SLIMLLM_CUDA_DRIVER";
constexpr const char* kLibrary = "libcuda.so.1";

Status unavailable(const std::string& message, const std::string& remedy) {
  Status status = Status::error("SLIM_DEVICE_UNAVAILABLE", message);
  status.parameter = "device";
  status.remedy = remedy;
  return status;
}

/// Finds every function; false with the name of the first that is missing.
class Table {
 public:
  explicit Table(void* library) : library_(library) {}

  template <typename Function>
  void find(Function*& out, const char* name, const char* otherName = nullptr) {
    void* symbol = dlsym(library_, name);
    if (!symbol && otherName) symbol = dlsym(library_, otherName);
    if (!symbol && missing_.empty()) missing_ = name;
    out = reinterpret_cast<Function*>(symbol);
  }

  const std::string& missing() const { return missing_; }

 private:
  void* library_;
  std::string missing_;
};

void fill(Driver& d, Table& table) {
  table.find(d.init, "cuInit");
  table.find(d.driverGetVersion, "cuDriverGetVersion");
  table.find(d.deviceGetCount, "cuDeviceGetCount");
  table.find(d.deviceGet, "cuDeviceGet");
  table.find(d.deviceGetName, "cuDeviceGetName");
  table.find(d.deviceGetAttribute, "cuDeviceGetAttribute");
  table.find(d.deviceTotalMem, "cuDeviceTotalMem_v2");
  table.find(d.primaryContextRetain, "cuDevicePrimaryCtxRetain");
  table.find(d.primaryContextRelease, "cuDevicePrimaryCtxRelease_v2");
  table.find(d.contextSetCurrent, "cuCtxSetCurrent");
  table.find(d.memoryInfo, "cuMemGetInfo_v2");
  table.find(d.memoryAllocate, "cuMemAlloc_v2");
  table.find(d.memoryFree, "cuMemFree_v2");
  table.find(d.copyToDevice, "cuMemcpyHtoDAsync_v2");
  table.find(d.copyToHost, "cuMemcpyDtoHAsync_v2");
  table.find(d.copyOnDevice, "cuMemcpyDtoDAsync_v2");
  table.find(d.fillBytes, "cuMemsetD8Async");
  table.find(d.streamCreate, "cuStreamCreate");
  table.find(d.streamDestroy, "cuStreamDestroy_v2");
  table.find(d.streamSynchronize, "cuStreamSynchronize");
  table.find(d.eventCreate, "cuEventCreate");
  table.find(d.eventDestroy, "cuEventDestroy_v2");
  table.find(d.eventRecord, "cuEventRecord");
  table.find(d.eventSynchronize, "cuEventSynchronize");
  table.find(d.eventElapsedTime, "cuEventElapsedTime_v2", "cuEventElapsedTime");
  table.find(d.moduleLoadData, "cuModuleLoadData");
  table.find(d.moduleUnload, "cuModuleUnload");
  table.find(d.moduleGetFunction, "cuModuleGetFunction");
  table.find(d.functionSetAttribute, "cuFuncSetAttribute");
  table.find(d.functionGetAttribute, "cuFuncGetAttribute");
  table.find(d.launchKernel, "cuLaunchKernel");
  table.find(d.streamBeginCapture, "cuStreamBeginCapture_v2");
  table.find(d.streamEndCapture, "cuStreamEndCapture");
  table.find(d.graphInstantiate, "cuGraphInstantiateWithFlags");
  table.find(d.graphLaunch, "cuGraphLaunch");
  table.find(d.graphExecDestroy, "cuGraphExecDestroy");
  table.find(d.graphDestroy, "cuGraphDestroy");
  table.find(d.getErrorName, "cuGetErrorName");
  table.find(d.getErrorString, "cuGetErrorString");
}

Status load(const char* named, std::unique_ptr<Driver>& out) {
  const char* path = named ? named : kLibrary;
  const std::string where = named ? std::string(kVariable) + " names " + path : path;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library)
    return unavailable("The CUDA driver library cannot be opened (" + where + "): " + dlerror(),
                       named ? std::string("Correct or unset ") + kVariable
                             : "Install NVIDIA's driver, or choose device 'cpu'");
  auto driver = std::make_unique<Driver>();
  driver->path = path;
  Table table(library);
  fill(*driver, table);
  constexpr Result kNoDevice = 100;
  const std::string remedy = "Install a newer driver, or choose device 'cpu'";
  Status status;
  if (!table.missing().empty())
    status = unavailable("The CUDA driver library has no " + table.missing() + " (" + where + ")", remedy);
  else if (const Result result = driver->init(0); result == kNoDevice)
    status = unavailable("The CUDA driver finds no device (" + where + ")", "Choose device 'cpu' or 'auto'");
  else if (result != 0)
    status = unavailable(
        "The CUDA driver does not start (" + where + "): " + driver->check(result, "cuInit").message, remedy);
  if (!status.ok()) {
    dlclose(library);
    return status;
  }
  out = std::move(driver);
  return Status::success();
}

}  // namespace

Status Driver::open(const Driver*& out) {
  static std::mutex mutex;
  static std::map<std::string, std::unique_ptr<Driver>> drivers;  // stay open as long as the process
  const char* named = std::getenv(kVariable);
  if (named && !*named) named = nullptr;
  std::lock_guard lock(mutex);
  std::unique_ptr<Driver>& driver = drivers[named ? named : kLibrary];
  if (!driver) SLIM_RETURN_IF_ERROR(load(named, driver));
  out = driver.get();
  return Status::success();
}

Status Driver::check(Result result, const char* function, const std::string& about) const {
  if (result == 0) return Status::success();
  const char *name = nullptr, *text = nullptr;
  getErrorName(result, &name);
  getErrorString(result, &text);
  std::string message = std::string(function) + " failed";
  if (!about.empty()) message += " for " + about;
  message += ": " + std::string(name ? name : "an unknown error") + " (" + std::to_string(result) + ")";
  if (text) message += ", " + std::string(text);
  return Status::error(result == kErrorOutOfMemory ? "SLIM_OUT_OF_MEMORY" : "SLIM_DEVICE_FAILED", message);
}

}  // namespace slim::cuda
