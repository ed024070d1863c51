// SBA on a device (quant/bit_allocation.h).
#pragma once
#include "cuda/device.h"
#include "quant/bit_allocation.h"

namespace slim::cuda {

/// Calibration inputs that the KL is taken over, as slim::Samples.
struct DeviceSamples {
  DeviceAddress data;  // float32 [tokens, cols]
  size_t tokens;
  double sequences;
};

/// As slim::allocateBits, of w [rows, cols]. The caller holds device.use().
Status allocateBits(Device& device, DeviceAddress w, size_t rows, const Groups& groups,
                    const DeviceSamples& samples, const std::vector<double>& salience, int bits,
                    const CancelFlag& cancelled, BitAllocation& out);

}  // namespace slim::cuda
