// Refinement after GPTQ on a device (quant/refinement.h).
#pragma once
#include <vector>

#include "cuda/group_quantization.h"
#include "quant/refinement.h"

namespace slim::cuda {

/// As slim::refine: w [rows, cols] and h [cols, cols] (symmetric, damped, positive diagonal) on the device.
/// The caller holds device.use().
Status refine(Device& device, DeviceAddress w, DeviceAddress h, const Refinement& options,
              const CancelFlag& cancelled, DeviceGroupCodes& codes, std::vector<double>& objective);

}  // namespace slim::cuda
