// One GPU: its primary context, a stream, the kernels, memory. All work of a device runs in order on its
// stream.
#pragma once
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "core/mapped_file.h"
#include "cuda/driver.h"
#include "cuda/kernels/arguments.h"
#include "cuda/memory.h"

namespace slim::cuda {

struct DeviceInfo {
  int index = 0;
  std::string name;
  int major = 0, minor = 0;  // compute capability
  size_t memoryBytes = 0;
  int multiprocessors = 0;
  int sharedBytesOfBlock = 0;  // the most that a CTA can ask for
};

struct DriverInfo {
  std::string path;
  int version = 0;  // 1000 · major + 10 · minor
  std::vector<DeviceInfo> devices;
};
Status describeDriver(DriverInfo& out);

inline size_t divideUp(size_t a, size_t b) { return (a + b - 1) / b; }

struct Launch {
  unsigned gridX = 1, gridY = 1, gridZ = 1;
  unsigned threads = 1;
  unsigned sharedBytes = 0;
};

class Graph;

class Device : public std::enable_shared_from_this<Device> {
 public:
  static Status open(int index, std::shared_ptr<Device>& out);
  ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  const DeviceInfo& info() const { return info_; }
  /// The image of kernels.fatbin that the driver chose: "sm_90a", or "PTX" where it compiled that.
  const std::string& image() const { return image_; }
  const std::shared_ptr<MemoryPool>& pool() const { return pool_; }
  Status freeBytes(size_t& out) const;
  /// For what queues work beside the kernels of this device.
  const Driver& driver() const { return driver_; }
  Handle stream() const { return stream_; }

  /// The device's calls come from one thread at a time, between which a lock must be held: a lock on this
  /// device, with its context current.
  std::unique_lock<std::mutex> use() const;

  /// Queues a kernel; `shape` is what the error names beside it. Arguments are the kernel's one parameter.
  template <typename Arguments>
  Status launch(const char* kernel, const Launch& launch, const Arguments& arguments,
                const std::string& shape) {
    return launchBytes(kernel, launch, &arguments, sizeof arguments, shape);
  }

  template <typename T>
  Status allocate(size_t count, const std::string& about, DeviceBuffer<T>& out) {
    return DeviceBuffer<T>::make(pool_, count, about, out);
  }
  template <typename T>
  Status upload(const T* from, size_t count, const std::string& about, DeviceBuffer<T>& out) {
    SLIM_RETURN_IF_ERROR(allocate(count, about, out));
    return copyToDevice(out.address(), from, count * sizeof(T));
  }
  /// Returns before the copy is made when `from` is pinned memory.
  Status copyToDevice(DeviceAddress to, const void* from, size_t bytes);
  /// Returns when the bytes are there.
  Status copyToHost(void* to, DeviceAddress from, size_t bytes);
  Status copyOnDevice(DeviceAddress to, DeviceAddress from, size_t bytes);
  Status fill(DeviceAddress to, unsigned char value, size_t bytes);
  /// Waits for all that was queued; an error of theirs comes out here.
  Status synchronize();

  /// Records what `body` queues, to be launched as one.
  Status capture(const std::function<Status()>& body, std::unique_ptr<Graph>& out);

 private:
  friend class Graph;
  explicit Device(const Driver& driver) : driver_(driver) {}
  Status start(int index);
  Status kernel(const char* name, Handle& out);
  Status launchBytes(const char* kernel, const Launch& launch, const void* arguments, size_t bytes,
                     const std::string& shape);

  const Driver& driver_;
  DeviceInfo info_;
  int handle_ = 0;
  std::string image_;
  Handle context_ = nullptr, stream_ = nullptr, module_ = nullptr;
  std::shared_ptr<MappedFile> kernelsFile_;
  std::map<std::string, Handle> kernels_;
  std::map<Handle, unsigned> sharedLimits_;
  std::shared_ptr<MemoryPool> pool_;
  mutable std::mutex mutex_;
};

/// Queued work, recorded once.
class Graph {
 public:
  Graph(Device& device, Handle executable) : device_(device), executable_(executable) {}
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  Status launch();

 private:
  Device& device_;
  Handle executable_;
};

template <typename T>
Address<T> addressOf(DeviceAddress address) {
  return {address};
}

}  // namespace slim::cuda
