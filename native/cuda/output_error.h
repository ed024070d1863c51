// The error of a quantized layer's outputs, through the Hessian of its inputs, on a device.
#pragma once
#include "cuda/device.h"

namespace slim::cuda {

/// ‖(W − Q) X‖ / ‖W X‖ as slim::relativeOutputError. w and q (dequantized) [rows, cols]; h [cols, cols]
/// symmetric, H or any multiple of it. The caller holds device.use().
Status relativeOutputError(Device& device, DeviceAddress w, DeviceAddress q, size_t rows, size_t cols,
                           DeviceAddress h, double& out);

}  // namespace slim::cuda
