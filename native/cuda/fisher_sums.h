// The Fisher information of the outputs of linear layers on a device (FisherSums of decoder/gradients.h).
#pragma once
#include <map>
#include <string>
#include <vector>

#include "cuda/device_block.h"

namespace slim::cuda {

class DeviceFisherSums {
 public:
  explicit DeviceFisherSums(size_t tokens) : tokens_(tokens) {}
  /// Adds what a tile's tokens, from `firstToken` on, have. The caller holds device.use().
  Status add(Device& device, const DeviceTapGradients& gradients, size_t firstToken);

  /// Σ over tokens (∂L/∂y_o)² by role.
  const std::map<std::string, std::vector<double>>& rows() const { return rows_; }
  /// Of every token the mean of (∂L/∂y_o)² over the outputs of a tap's layers, by tap.
  const std::map<std::string, std::vector<float>>& tokenPowers() const { return powers_; }

 private:
  size_t tokens_;
  std::map<std::string, std::vector<double>> rows_;
  std::map<std::string, std::vector<float>> powers_;
};

}  // namespace slim::cuda
