// The whole step for one linear layer on a device (quant/quantize_linear.h).
#pragma once
#include "cuda/device_hessian.h"
#include "quant/quantize_linear.h"

namespace slim::cuda {

/// As slim::quantizeLinear, on the Hessian's device. Seconds of a phase end when its work has; those of GPTQ
/// count as compensation, fits included. The caller does not hold device.use().
Status quantizeLinear(const Tensor& weight, DeviceHessian& hessian, const QuantizeLinearOptions& options,
                      ThreadPool& pool, const CancelFlag& cancelled, QuantizedLinear& out);

}  // namespace slim::cuda
