// What benchmarks time: work recorded as a graph, launched again and again between two of the driver's
// events. No part of the product's path.
#pragma once
#include <memory>
#include <string>
#include <vector>

#include "core/tensor.h"
#include "cuda/cublas.h"
#include "cuda/packed_linear.h"

namespace slim::cuda {

class TimedWork {
 public:
  explicit TimedWork(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  ~TimedWork();
  TimedWork(const TimedWork&) = delete;
  TimedWork& operator=(const TimedWork&) = delete;

  /// Each in place of what was recorded before. Repeats take the copies of the weights in turn.
  Status recordCopies(size_t bytes, size_t repeats);
  Status recordPacked(std::vector<std::shared_ptr<PackedLinear>> matrices, const Tensor& x, size_t repeats);
  Status recordCublas(const std::string& library, const Tensor& weight, size_t copies, const Tensor& x,
                      size_t repeats, std::string& description);

  /// Launches the graph: seconds of one repeat.
  Status turn(double& seconds);
  /// What the last repeat gave: [tokens, rows], of packed matrices float32, of cuBLAS float16.
  Status output(TensorPtr& out);

 private:
  Status record(size_t repeats, const std::function<Status(size_t)>& queue);
  Status timeLaunch(double& seconds);

  std::shared_ptr<Device> device_;  // outlives the buffers
  std::vector<std::shared_ptr<PackedLinear>> matrices_;
  DeviceBuffer<uint8_t> weights_, x_, y_;
  DType outputType_ = DType::F32;
  std::vector<size_t> outputShape_;
  ProductScratch scratch_;
  std::unique_ptr<Cublas> cublas_;
  size_t repeats_ = 0;
  std::unique_ptr<Graph> graph_;
  Handle before_ = nullptr, after_ = nullptr;  // events
};

}  // namespace slim::cuda
