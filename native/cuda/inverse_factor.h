// The factor that GPTQ and the salience read, on a device: U, upper triangular, with (H + λI)⁻¹ = UᵀU
// (quant/cholesky.h).
#pragma once
#include "cuda/device.h"
#include "quant/damping.h"

namespace slim::cuda {

struct DeviceInverseFactor : DampedFactor {
  DeviceBuffer<float> upper;  // U, [n, n]
};

/// U of scale · h, damped as on the CPU (slim::factorInverse); reads the upper triangle of h [n, n]. The
/// caller holds device.use().
Status factorInverse(Device& device, DeviceAddress h, size_t n, float scale, Damping damping,
                     const CancelFlag& cancelled, DeviceInverseFactor& out);

}  // namespace slim::cuda
