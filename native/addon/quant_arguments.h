// Arguments and results that the quantization steps share, on the CPU and on a device.
#pragma once
#include "addon/arguments.h"
#include "quant/quantize_linear.h"

namespace slim::addon {

std::vector<uint8_t> asGroupBits(const Napi::Value& value, const std::string& name);
/// 1 to 8.
int asBits(const Napi::Value& value, const std::string& name);
Quantizer asQuantizer(const Napi::Value& value, const std::string& name);
/// QuantizeLinearOptions of lib/native/addon.ts.
QuantizeLinearOptions asQuantizeLinearOptions(const Napi::Value& value);

std::vector<double> asDoubles(const Napi::Value& value, const std::string& name);
/// F32 [rows, cols]; rows 0: any number.
TensorPtr asFloatMatrix(const Napi::Value& value, const std::string& name, size_t rows, size_t cols);

/// A weight and the groups that it is cut into.
struct WeightArgument {
  TensorPtr tensor;
  Groups groups;
};
WeightArgument asGroupedWeight(const Napi::Value& weight, const Napi::Value& groupSize,
                               const std::string& groupSizeName);

/// Arguments of allocateBits.
struct AllocationStep {
  WeightArgument weight;
  TensorPtr samples;
  std::vector<double> salience;
  int bits;
  double sequences;
};
AllocationStep asAllocationStep(const Napi::Value& weight, const Napi::Value& samples,
                                const Napi::Value& salience, const Napi::Value& options);

/// Arguments of groupErrors but its Hessian.
struct GroupErrorsStep {
  WeightArgument weight;
  std::vector<double> rows;
  Quantizer quantizer;
  int mostBits;
};
GroupErrorsStep asGroupErrorsStep(const Napi::Value& weight, const Napi::Value& rows,
                                  const Napi::Value& options);

Napi::Value toFloat64Array(Napi::Env env, const std::vector<double>& values);
Napi::Value toUint8Array(Napi::Env env, const std::vector<uint8_t>& values);
/// QuantizedLinear of lib/native/addon.ts.
Napi::Value toObject(Napi::Env env, const QuantizedLinear& result);
/// { groupBits, kl }
Napi::Value toObject(Napi::Env env, const BitAllocation& allocation);

}  // namespace slim::addon
