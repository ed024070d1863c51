#include "cuda/salience.h"

#include "cuda/kernels/allocation_arguments.h"

namespace slim::cuda {

Status columnEnergies(Device& device, DeviceAddress w, size_t rows, size_t cols, DeviceAddress energies) {
  ColumnEnergiesArguments a{};
  a.w = addressOf<const float>(w);
  a.energies = addressOf<double>(energies);
  a.rows = uint32_t(rows);
  a.columns = uint32_t(cols);
  return device.launch(
      "columnEnergies",
      {.gridX = unsigned(divideUp(cols, kEnergyColumns)), .threads = kEnergyColumns * kEnergyWarps}, a,
      std::to_string(rows) + " rows × " + std::to_string(cols));
}

Status groupSalience(Device& device, DeviceAddress w, size_t rows, const Groups& groups,
                     const std::vector<float>& diagonal, std::vector<double>& out) {
  const size_t cols = groups.cols;
  DeviceBuffer<double> energies;
  SLIM_RETURN_IF_ERROR(device.allocate(cols, "energies of columns", energies));
  SLIM_RETURN_IF_ERROR(columnEnergies(device, w, rows, cols, energies.address()));
  std::vector<double> energy(cols);
  SLIM_RETURN_IF_ERROR(device.copyToHost(energy.data(), energies.address(), energies.bytes()));
  out.assign(groups.count(), 0);
  for (size_t g = 0; g < groups.count(); ++g)
    for (size_t j = groups.begin(g); j < groups.end(g); ++j)
      out[g] += energy[j] / (double(diagonal[j]) * diagonal[j]);
  return Status::success();
}

}  // namespace slim::cuda
