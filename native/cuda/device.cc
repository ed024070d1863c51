#include "cuda/device.h"

#include "cuda/kernels_file.h"

namespace slim::cuda {
namespace {

// CUdevice_attribute and CUfunction_attribute
constexpr int kMultiprocessorCount = 16, kComputeMajor = 75, kComputeMinor = 76, kSharedOptin = 97;
constexpr int kBinaryVersion = 6, kMaxDynamicShared = 8;
constexpr unsigned kNonBlocking = 1;  // CU_STREAM_NON_BLOCKING
constexpr int kCaptureThreadLocal = 1;

Status describeDevice(const Driver& driver, int index, DeviceInfo& out) {
  const std::string about = "device " + std::to_string(index);
  int device = 0;
  SLIM_RETURN_IF_ERROR(driver.check(driver.deviceGet(&device, index), "cuDeviceGet", about));
  char name[256] = {};
  SLIM_RETURN_IF_ERROR(
      driver.check(driver.deviceGetName(name, sizeof name - 1, device), "cuDeviceGetName", about));
  out.index = index;
  out.name = name;
  SLIM_RETURN_IF_ERROR(
      driver.check(driver.deviceTotalMem(&out.memoryBytes, device), "cuDeviceTotalMem", about));
  const std::pair<int, int*> attributes[] = {{kMultiprocessorCount, &out.multiprocessors},
                                             {kComputeMajor, &out.major},
                                             {kComputeMinor, &out.minor},
                                             {kSharedOptin, &out.sharedBytesOfBlock}};
  for (const auto& [attribute, value] : attributes)
    SLIM_RETURN_IF_ERROR(
        driver.check(driver.deviceGetAttribute(value, attribute, device), "cuDeviceGetAttribute", about));
  return Status::success();
}

Status unavailable(const std::string& message) {
  Status status = Status::error("SLIM_DEVICE_UNAVAILABLE", message);
  status.parameter = "device";
  status.remedy = "Choose device 'cpu' or 'auto'";
  return status;
}

std::string shapeOf(const Launch& l) {
  return "grid " + std::to_string(l.gridX) + " × " + std::to_string(l.gridY) + " × " +
         std::to_string(l.gridZ) + ", " + std::to_string(l.threads) + " threads, " +
         std::to_string(l.sharedBytes) + " bytes of shared memory";
}

}  // namespace

Status describeDriver(DriverInfo& out) {
  const Driver* driver;
  SLIM_RETURN_IF_ERROR(Driver::open(driver));
  out.path = driver->path;
  SLIM_RETURN_IF_ERROR(driver->check(driver->driverGetVersion(&out.version), "cuDriverGetVersion"));
  int count = 0;
  SLIM_RETURN_IF_ERROR(driver->check(driver->deviceGetCount(&count), "cuDeviceGetCount"));
  out.devices.resize(size_t(count));
  for (int i = 0; i < count; ++i) SLIM_RETURN_IF_ERROR(describeDevice(*driver, i, out.devices[size_t(i)]));
  return Status::success();
}

Status Device::open(int index, std::shared_ptr<Device>& out) {
  const Driver* driver;
  SLIM_RETURN_IF_ERROR(Driver::open(driver));
  std::shared_ptr<Device> device(new Device(*driver));
  SLIM_RETURN_IF_ERROR(device->start(index));
  out = std::move(device);
  return Status::success();
}

Status Device::start(int index) {
  int count = 0;
  SLIM_RETURN_IF_ERROR(driver_.check(driver_.deviceGetCount(&count), "cuDeviceGetCount"));
  if (count == 0) return unavailable("The CUDA driver (" + driver_.path + ") finds no device");
  if (index < 0 || index >= count)
    return Status::invalidArgument("index", "a device from 0 to " + std::to_string(count - 1),
                                   std::to_string(index));
  SLIM_RETURN_IF_ERROR(describeDevice(driver_, index, info_));
  const std::string about = "device " + std::to_string(index) + " (" + info_.name + ")";
  if (info_.major < 8)
    return unavailable("CUDA " + about + " has compute capability " + std::to_string(info_.major) + "." +
                       std::to_string(info_.minor) + "; the kernels need 8.0");
  SLIM_RETURN_IF_ERROR(openKernelsFile(kernelsFile_));
  SLIM_RETURN_IF_ERROR(driver_.check(driver_.deviceGet(&handle_, index), "cuDeviceGet", about));
  SLIM_RETURN_IF_ERROR(
      driver_.check(driver_.primaryContextRetain(&context_, handle_), "cuDevicePrimaryCtxRetain", about));
  const auto lock = use();
  SLIM_RETURN_IF_ERROR(driver_.check(driver_.streamCreate(&stream_, kNonBlocking), "cuStreamCreate", about));
  if (const Result result = driver_.moduleLoadData(&module_, kernelsFile_->data()); result != 0)
    return unavailable("CUDA " + about + " takes no image of " + kernelsFile_->path() + ": " +
                       driver_.check(result, "cuModuleLoadData").message);
  pool_ = std::make_shared<MemoryPool>(driver_, context_);
  Handle function;
  SLIM_RETURN_IF_ERROR(kernel("tokenScales", function));
  int binary = 0;
  SLIM_RETURN_IF_ERROR(
      driver_.check(driver_.functionGetAttribute(&binary, kBinaryVersion, function), "cuFuncGetAttribute"));
  const bool built = binary == 80 || binary == 86 || binary == 89 || binary == 90;
  image_ = built ? "sm_" + std::to_string(binary) + (binary == 90 ? "a" : "") : "PTX";
  return Status::success();
}

Device::~Device() {
  if (!context_) return;
  driver_.contextSetCurrent(context_);
  if (stream_) {
    driver_.streamSynchronize(stream_);
    driver_.streamDestroy(stream_);
  }
  pool_.reset();
  if (module_) driver_.moduleUnload(module_);
  driver_.primaryContextRelease(handle_);
}

std::unique_lock<std::mutex> Device::use() const {
  std::unique_lock lock(mutex_);
  driver_.contextSetCurrent(context_);
  return lock;
}

Status Device::freeBytes(size_t& out) const {
  size_t total;
  return driver_.check(driver_.memoryInfo(&out, &total), "cuMemGetInfo");
}

Status Device::kernel(const char* name, Handle& out) {
  Handle& function = kernels_[name];
  if (!function)
    SLIM_RETURN_IF_ERROR(driver_.check(driver_.moduleGetFunction(&function, module_, name),
                                       "cuModuleGetFunction", std::string("kernel ") + name));
  out = function;
  return Status::success();
}

Status Device::launchBytes(const char* name, const Launch& launch, const void* arguments, size_t bytes,
                           const std::string& shape) {
  const auto about = [&] { return std::string("kernel ") + name + " of " + shape + ", " + shapeOf(launch); };
  Handle function;
  SLIM_RETURN_IF_ERROR(kernel(name, function));
  // Asked for whatever it is: of the 48 KB that a kernel has unasked, its static variables take a part.
  unsigned& limit = sharedLimits_[function];
  if (launch.sharedBytes > limit) {
    const Result result = driver_.functionSetAttribute(function, kMaxDynamicShared, int(launch.sharedBytes));
    if (result != 0) return driver_.check(result, "cuFuncSetAttribute", about());
    limit = launch.sharedBytes;
  }
  // CU_LAUNCH_PARAM_BUFFER_POINTER, …_BUFFER_SIZE, …_END
  void* extra[] = {reinterpret_cast<void*>(1), const_cast<void*>(arguments), reinterpret_cast<void*>(2),
                   &bytes, nullptr};
  const Result result =
      driver_.launchKernel(function, launch.gridX, launch.gridY, launch.gridZ, launch.threads, 1, 1,
                           launch.sharedBytes, stream_, nullptr, extra);
  return result == 0 ? Status::success() : driver_.check(result, "cuLaunchKernel", about());
}

Status Device::copyToDevice(DeviceAddress to, const void* from, size_t bytes) {
  if (bytes == 0) return Status::success();
  return driver_.check(driver_.copyToDevice(to, from, bytes, stream_), "cuMemcpyHtoDAsync",
                       std::to_string(bytes) + " bytes");
}

Status Device::copyToHost(void* to, DeviceAddress from, size_t bytes) {
  if (bytes > 0)
    SLIM_RETURN_IF_ERROR(driver_.check(driver_.copyToHost(to, from, bytes, stream_), "cuMemcpyDtoHAsync",
                                       std::to_string(bytes) + " bytes"));
  return synchronize();
}

Status Device::copyOnDevice(DeviceAddress to, DeviceAddress from, size_t bytes) {
  if (bytes == 0) return Status::success();
  return driver_.check(driver_.copyOnDevice(to, from, bytes, stream_), "cuMemcpyDtoDAsync",
                       std::to_string(bytes) + " bytes");
}

Status Device::fill(DeviceAddress to, unsigned char value, size_t bytes) {
  if (bytes == 0) return Status::success();
  return driver_.check(driver_.fillBytes(to, value, bytes, stream_), "cuMemsetD8Async",
                       std::to_string(bytes) + " bytes");
}

Status Device::synchronize() {
  return driver_.check(driver_.streamSynchronize(stream_), "cuStreamSynchronize");
}

Status Device::capture(const std::function<Status()>& body, std::unique_ptr<Graph>& out) {
  SLIM_RETURN_IF_ERROR(
      driver_.check(driver_.streamBeginCapture(stream_, kCaptureThreadLocal), "cuStreamBeginCapture"));
  const Status recorded = body();
  Handle graph = nullptr;
  const Result ended = driver_.streamEndCapture(stream_, &graph);
  Status status = recorded.ok() ? driver_.check(ended, "cuStreamEndCapture") : recorded;
  Handle executable = nullptr;
  if (status.ok())
    status = driver_.check(driver_.graphInstantiate(&executable, graph, 0), "cuGraphInstantiateWithFlags");
  if (graph) driver_.graphDestroy(graph);
  if (status.ok()) out = std::make_unique<Graph>(*this, executable);
  return status;
}

Graph::~Graph() {
  device_.driver_.contextSetCurrent(device_.context_);
  device_.driver_.graphExecDestroy(executable_);
}

Status Graph::launch() {
  return device_.driver_.check(device_.driver_.graphLaunch(executable_, device_.stream_), "cuGraphLaunch");
}

}  // namespace slim::cuda
