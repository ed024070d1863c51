// Rows and triangles of float32 matrices on a device.
#pragma once
#include "cuda/device.h"

namespace slim::cuda {

/// Rows of a matrix on a device, from the address of its first element.
struct DeviceRows {
  DeviceAddress data = 0;
  size_t stride = 0;
};

/// Queues out [rows, width] = a (− b, where it has data). The callers of these hold device.use().
Status copyRows(Device& device, size_t rows, size_t width, const DeviceRows& a, const DeviceRows& b,
                const DeviceRows& out);
/// Queues the copy of what lies above the diagonal of a [n, n] to below it.
Status mirrorUpper(Device& device, DeviceAddress a, size_t n);
/// Queues out [rows] float64 = Σ_j a · b of every row of a and b [rows, width].
Status rowDots(Device& device, size_t rows, size_t width, DeviceAddress a, DeviceAddress b,
               DeviceAddress out);
/// H_jj of h [n, n].
Status downloadDiagonal(Device& device, DeviceAddress h, size_t n, std::vector<float>& out);

}  // namespace slim::cuda
