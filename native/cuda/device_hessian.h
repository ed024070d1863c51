// The Hessian of a linear layer's inputs on a device, H = (2/N) Σ XᵀX, as slim::Hessian on the CPU.
#pragma once
#include <memory>
#include <vector>

#include "cuda/inverse_factor.h"
#include "cuda/matrix_rows.h"
#include "quant/hessian.h"

namespace slim::cuda {

/// As slim::OriginalInputs, on the device: 0 where there is none.
struct DeviceOriginalInputs {
  DeviceAddress x = 0, states = 0, quantizedStates = 0;
  size_t stateSize = 0;
};

/// All but the counts is called by who holds device.use().
class DeviceHessian {
 public:
  DeviceHessian(std::shared_ptr<Device> device, size_t size, size_t keepEvery)
      : device_(std::move(device)), size_(size), keepEvery_(keepEvery) {}

  const std::shared_ptr<Device>& device() const { return device_; }
  size_t size() const { return size_; }
  size_t sequences() const { return sequences_; }
  size_t sampleCount() const { return sampleCount_; }
  float scale() const { return 2.0f / float(sequences_); }
  /// Sequences times the share of tokens that was kept: the N of sums over the kept rows.
  double sampledSequences() const { return double(sequences_) * double(sampleCount_) / double(tokens_); }

  /// Queues the addition of x [tokens, size] (row stride `stride`), `sequences` whole sequences. Original
  /// inputs have the same stride, states are [tokens, stateSize].
  Status add(DeviceAddress x, size_t tokens, size_t stride, size_t sequences,
             const DeviceOriginalInputs& original = {});

  /// Σ XᵀX [size, size], symmetric.
  Status sum(DeviceAddress& out);
  /// Σ (X̃ − X)ᵀ X [size, size] and Σ (S̃ − S)ᵀ X [stateSize, size]; count 0 where none came.
  const DeviceBuffer<float>& inputDrift() const { return inputDrift_; }
  const DeviceBuffer<float>& stateDrift() const { return stateDrift_; }
  /// Kept rows [sampleCount, size].
  DeviceAddress samples() const { return samples_.address(); }

  /// Computed once for the layers that share the input.
  Status gptqFactor(const CancelFlag& cancelled, std::shared_ptr<const DeviceInverseFactor>& out);
  Status salienceFactor(const CancelFlag& cancelled, std::shared_ptr<const SalienceFactor>& out);
  /// Σ x_j² of every channel [size].
  Status diagonal(std::vector<float>& out);
  /// [size] 1: H_jj = 0, the channel never fires.
  Status deadChannels(std::vector<uint8_t>& out);

 private:
  Status reserveSum();
  Status addDrift(const DeviceRows& original, const DeviceRows& quantized, size_t width, DeviceAddress x,
                  size_t tokens, size_t stride, DeviceBuffer<float>& sum);
  Status keepSamples(DeviceAddress x, size_t tokens, size_t stride);

  std::shared_ptr<Device> device_;  // outlives the buffers
  size_t size_, keepEvery_, sequences_ = 0, tokens_ = 0, sampleCount_ = 0;
  DeviceBuffer<float> sum_;  // upper triangle of Σ XᵀX; below the diagonal its mirror image if mirrored_
  bool mirrored_ = false;
  DeviceBuffer<float> inputDrift_, stateDrift_;
  DeviceBuffer<float> samples_;  // with room for more
  std::shared_ptr<const DeviceInverseFactor> gptqFactor_;
  std::shared_ptr<const SalienceFactor> salienceFactor_;
};

}  // namespace slim::cuda
