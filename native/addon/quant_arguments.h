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

Napi::Value toFloat64Array(Napi::Env env, const std::vector<double>& values);
Napi::Value toUint8Array(Napi::Env env, const std::vector<uint8_t>& values);
/// QuantizedLinear of lib/native/addon.ts.
Napi::Value toObject(Napi::Env env, const QuantizedLinear& result);

}  // namespace slim::addon
