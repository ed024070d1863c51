// What each width would cost each group, on a device (quant/group_errors.h).
#pragma once
#include <vector>

#include "cuda/device_hessian.h"
#include "quant/group_errors.h"

namespace slim::cuda {

struct GroupErrorsOptions {
  size_t groupSize = 0;
  Quantizer quantizer = Quantizer::MinMax;
  int mostBits = 0;
};

/// As slim::groupErrors with the factor and the diagonal of `hessian`, dead channels cleared; `rows` [rows]
/// are f_o. Groups are such that checkDeviceGroupSize passes. The caller does not hold device.use().
Status groupErrors(const Tensor& weight, DeviceHessian& hessian, const std::vector<double>& rows,
                   const GroupErrorsOptions& options, ThreadPool& pool, const CancelFlag& cancelled,
                   std::vector<double>& errors);

}  // namespace slim::cuda
