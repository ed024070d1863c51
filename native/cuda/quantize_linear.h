// The whole step for one linear layer on a device (quant/quantize_linear.h).
#pragma once
#include "cuda/device_hessian.h"
#include "quant/quantize_linear.h"

namespace slim::cuda {

/// As slim::quantizeLinear; the Hessian lies on `device`. What the phases' seconds count is over when they
/// are read; those of quantization with compensation are not told apart from fitting, and count as
/// compensation. The caller does not hold device->use().
Status quantizeLinear(const std::shared_ptr<Device>& device, const Tensor& weight, DeviceHessian& hessian,
                      const QuantizeLinearOptions& options, ThreadPool& pool, const CancelFlag& cancelled,
                      QuantizedLinear& out);

}  // namespace slim::cuda
