// How much each group matters to the layer's output, on a device (quant/salience.h).
#pragma once
#include <vector>

#include "cuda/device.h"
#include "quant/groups.h"

namespace slim::cuda {

/// Queues energies [cols] float64 = Σ over rows of w² of w [rows, cols]. The caller holds device.use(), here
/// and below.
Status columnEnergies(Device& device, DeviceAddress w, size_t rows, size_t cols, DeviceAddress energies);
/// Σ over the group's columns j and all rows of w² / U_jj² of w [rows, cols]; `diagonal` [cols] is that of U.
Status groupSalience(Device& device, DeviceAddress w, size_t rows, const Groups& groups,
                     const std::vector<float>& diagonal, std::vector<double>& out);

}  // namespace slim::cuda
