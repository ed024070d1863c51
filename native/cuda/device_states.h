// Values of calibration windows, float32 [tokens, width]: on a device while they fit, else on the host, with
// the rows that are worked on brought to the device and back.
#pragma once
#include <memory>
#include <string>

#include "core/tensor.h"
#include "cuda/device.h"

namespace slim::cuda {

class DeviceStates {
 public:
  struct Options {
    bool onHost = false;
    /// Of values on the host: a directory for an unlinked file that backs them, or none (Tensor::allocate).
    std::string spillDirectory;
  };
  /// The values of `source`, F32 [tokens, width], in the same memory where they stay on the host. The caller
  /// does not hold device.use(), here and in the next two.
  static Status make(std::shared_ptr<Device> device, TensorPtr source, const Options& options,
                     std::shared_ptr<DeviceStates>& out);
  static Status copy(const DeviceStates& source, const Options& options, std::shared_ptr<DeviceStates>& out);
  /// Zeros.
  static Status make(std::shared_ptr<Device> device, size_t tokens, size_t width, const Options& options,
                     std::shared_ptr<DeviceStates>& out);

  size_t tokens() const { return tokens_; }
  size_t width() const { return width_; }
  bool onDevice() const { return !host_; }
  const std::shared_ptr<Device>& device() const { return device_; }

  /// What a tile is for: rows that will be written alone need not be brought.
  enum class Use { Read, Overwrite };
  /// Queues what makes rows [first, first + tokens) lie at `out`, until the next tile. The caller holds
  /// device.use(), here and below.
  Status tile(size_t first, size_t tokens, Use use, DeviceAddress& out);
  /// Keeps what was written to the last tile.
  Status commit();
  /// A copy of all rows.
  Status read(TensorPtr& out) const;

 private:
  /// Of no values yet; `onDevice`: whether there is room for them on the device.
  static Status place(std::shared_ptr<Device> device, size_t tokens, size_t width, const Options& options,
                      std::shared_ptr<DeviceStates>& out, bool& onDevice);
  Status readTo(void* out) const;
  size_t rowBytes() const { return width_ * sizeof(float); }

  std::shared_ptr<Device> device_;  // outlives what lies on it
  size_t tokens_ = 0, width_ = 0;
  DeviceBuffer<float> values_;  // all rows, or of values on the host a tile's
  TensorPtr host_;
  size_t tileFirst_ = 0, tileTokens_ = 0;
};

}  // namespace slim::cuda
