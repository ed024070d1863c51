#include "cuda/fisher_sums.h"

#include "cuda/matrix_rows.h"
#include "cuda/salience.h"

namespace slim::cuda {

Status DeviceFisherSums::add(Device& device, const DeviceTapGradients& g, size_t firstToken) {
  DeviceBuffer<double> energies;  // of the outputs, then of the tokens
  SLIM_RETURN_IF_ERROR(device.allocate(g.rows + g.tokens, "squared gradients", energies));
  SLIM_RETURN_IF_ERROR(columnEnergies(device, g.outputs, g.tokens, g.rows, energies.address()));
  SLIM_RETURN_IF_ERROR(
      rowDots(device, g.tokens, g.rows, g.outputs, g.outputs, energies.address() + g.rows * sizeof(double)));
  std::vector<double> host(energies.count());
  SLIM_RETURN_IF_ERROR(device.copyToHost(host.data(), energies.address(), energies.bytes()));
  for (const TapGradients::Layer& layer : g.layers) {
    std::vector<double>& sums = rows_[layer.role];
    sums.resize(layer.rows);
    for (size_t o = 0; o < layer.rows; ++o) sums[o] += host[layer.firstRow + o];
  }
  std::vector<float>& powers = powers_[g.tap];
  powers.resize(tokens_);
  for (size_t t = 0; t < g.tokens; ++t) powers[firstToken + t] = float(host[g.rows + t] / double(g.rows));
  return Status::success();
}

}  // namespace slim::cuda
