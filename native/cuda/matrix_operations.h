// Small operations on whole matrices of a device. The caller holds device.use().
#pragma once
#include <vector>

#include "cuda/device.h"

namespace slim::cuda {

/// y += alpha · x.
Status addScaled(Device& device, size_t count, float alpha, DeviceAddress x, DeviceAddress y);
/// h [size, size] += value · I.
Status addToDiagonal(Device& device, DeviceAddress h, size_t size, float value);
/// Zeros in the columns of w [rows, flags.size()] that are flagged.
Status clearColumns(Device& device, DeviceAddress w, size_t rows, const std::vector<uint8_t>& flags);
/// Σ a_rj · b_rj of a, b [rows, cols] in float64: rows first, then their sums in order.
Status innerProduct(Device& device, size_t rows, size_t cols, DeviceAddress a, DeviceAddress b, double& out);

}  // namespace slim::cuda
