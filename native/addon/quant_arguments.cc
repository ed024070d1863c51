#include "addon/quant_arguments.h"

#include <cmath>

#include "addon/packed_object.h"

namespace slim::addon {

std::vector<uint8_t> asGroupBits(const Napi::Value& value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_uint8_array)
    throwInvalid(value.Env(), name, "a Uint8Array with the bits of every group", value);
  const auto array = value.As<Napi::Uint8Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

int asBits(const Napi::Value& value, const std::string& name) {
  const size_t bits = asSize(value, name, 1);
  if (bits > 8) throwInvalid(value.Env(), name, "1 to 8 bits", value);
  return int(bits);
}

Quantizer asQuantizer(const Napi::Value& value, const std::string& name) {
  const std::string quantizer = value.IsString() ? asString(value, name) : "";
  if (quantizer != "minmax" && quantizer != "sqc" && quantizer != "wide")
    throwInvalid(value.Env(), name, "\"minmax\", \"sqc\" or \"wide\"", value);
  return quantizer == "minmax" ? Quantizer::MinMax : quantizer == "sqc" ? Quantizer::Sqc : Quantizer::Wide;
}

QuantizeLinearOptions asQuantizeLinearOptions(const Napi::Value& value) {
  const auto env = value.Env();
  const auto object = asObject(value, "options");
  QuantizeLinearOptions options;
  options.bits = asBits(object.Get("bits"), "options.bits");
  options.groupSize = asSize(object.Get("groupSize"), "options.groupSize", 1);
  options.quantizer = asQuantizer(object.Get("quantizer"), "options.quantizer");
  const auto allocation = object.Get("allocation"), compensation = object.Get("compensation");
  if (allocation.IsString()) {
    const std::string name = asString(allocation, "options.allocation");
    if (name != "uniform" && name != "sba")
      throwInvalid(env, "options.allocation", "\"uniform\", \"sba\" or a Uint8Array", allocation);
    using Allocation = QuantizeLinearOptions::Allocation;
    options.allocation = name == "sba" ? Allocation::Sba : Allocation::Uniform;
  } else {
    options.allocation = QuantizeLinearOptions::Allocation::Given;
    options.groupBits = asGroupBits(allocation, "options.allocation");
  }
  const std::string compensationName =
      compensation.IsString() ? asString(compensation, "options.compensation") : "";
  if (compensationName != "none" && compensationName != "gptq")
    throwInvalid(env, "options.compensation", "\"none\" or \"gptq\"", compensation);
  options.compensate = compensationName == "gptq";
  if (!object.Get("sweeps").IsUndefined())
    options.refinement.sweeps = int(asSize(object.Get("sweeps"), "options.sweeps", 0));
  if (options.refinement.sweeps > 0 && !options.compensate)
    throwInvalid(env, "options.sweeps", "0 without compensation", object.Get("sweeps"));
  const auto readWeight = [&](const char* key, double& weight) {
    const Napi::Value given = object.Get(key);
    const std::string name = std::string("options.") + key;
    if (!given.IsUndefined()) weight = asNumber(given, name);
    if (!(weight >= 0 && weight <= 1)) throwInvalid(env, name, "0 to 1", given);
    if (weight > 0 && !options.compensate) throwInvalid(env, name, "0 without compensation", given);
  };
  readWeight("inputDriftWeight", options.inputDriftWeight);
  readWeight("stateDriftWeight", options.stateDriftWeight);
  return options;
}

std::vector<double> asDoubles(const Napi::Value& value, const std::string& name) {
  if (!value.IsTypedArray() || value.As<Napi::TypedArray>().TypedArrayType() != napi_float64_array)
    throwInvalid(value.Env(), name, "a Float64Array", value);
  const auto array = value.As<Napi::Float64Array>();
  return {array.Data(), array.Data() + array.ElementLength()};
}

TensorPtr asFloatMatrix(const Napi::Value& value, const std::string& name, size_t rows, size_t cols) {
  auto tensor = asTensor(value, name);
  if (tensor->dtype() != DType::F32 || tensor->shape().size() != 2 || tensor->cols() != cols ||
      (rows > 0 && tensor->rows() != rows))
    throw toError(value.Env(), Status::invalidArgument(name,
                                                       "F32 [" + (rows ? std::to_string(rows) : "tokens") +
                                                           ", " + std::to_string(cols) + "]",
                                                       describeShape(*tensor)));
  return tensor;
}

WeightArgument asGroupedWeight(const Napi::Value& weight, const Napi::Value& groupSize,
                               const std::string& groupSizeName) {
  auto tensor = asTensor(weight, "weight");
  const size_t size = asSize(groupSize, groupSizeName, 1);
  throwIfError(weight.Env(), checkGroupSize(size, tensor->cols()));
  return {tensor, {tensor->cols(), size}};
}

AllocationStep asAllocationStep(const Napi::Value& weight, const Napi::Value& samples,
                                const Napi::Value& salience, const Napi::Value& options) {
  const auto object = asObject(options, "options");
  const auto grouped = asGroupedWeight(weight, object.Get("groupSize"), "options.groupSize");
  const AllocationStep step{grouped, asFloatMatrix(samples, "samples", 0, grouped.groups.cols),
                            asDoubles(salience, "salience"), asBits(object.Get("bits"), "options.bits"),
                            double(asSize(object.Get("sequences"), "options.sequences", 1))};
  if (step.salience.size() != grouped.groups.count())
    throw toError(
        weight.Env(),
        Status::invalidArgument("salience", std::to_string(grouped.groups.count()) + " values, one a group",
                                std::to_string(step.salience.size())));
  return step;
}

GroupErrorsStep asGroupErrorsStep(const Napi::Value& weight, const Napi::Value& rows,
                                  const Napi::Value& options) {
  const auto object = asObject(options, "options");
  GroupErrorsStep step{asGroupedWeight(weight, object.Get("groupSize"), "options.groupSize"),
                       asDoubles(rows, "rows"), asQuantizer(object.Get("quantizer"), "options.quantizer"),
                       asBits(object.Get("mostBits"), "options.mostBits")};
  if (const size_t expected = step.weight.tensor->rows(); step.rows.size() != expected)
    throw toError(weight.Env(),
                  Status::invalidArgument("rows", std::to_string(expected) + " values, one a row",
                                          std::to_string(step.rows.size())));
  for (size_t r = 0; r < step.rows.size(); ++r)
    if (!(step.rows[r] >= 0) || !std::isfinite(step.rows[r]))
      throw toError(weight.Env(), Status::invalidArgument("rows[" + std::to_string(r) + "]",
                                                          "a finite number that is not negative",
                                                          std::to_string(step.rows[r])));
  return step;
}

Napi::Value toFloat64Array(Napi::Env env, const std::vector<double>& values) {
  auto array = Napi::Float64Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Value toUint8Array(Napi::Env env, const std::vector<uint8_t>& values) {
  auto array = Napi::Uint8Array::New(env, values.size());
  std::copy(values.begin(), values.end(), array.Data());
  return array;
}

Napi::Value toObject(Napi::Env env, const QuantizedLinear& result) {
  auto seconds = Napi::Object::New(env);
  seconds.Set("factor", result.factorSeconds);
  seconds.Set("allocation", result.allocationSeconds);
  seconds.Set("quantizer", result.seconds.quantizer);
  seconds.Set("compensation", result.seconds.compensation);
  seconds.Set("refinement", result.refinementSeconds);
  auto value = Napi::Object::New(env);
  value.Set("packed", PackedObject::wrap(env, result.packed));
  value.Set("groupBits", toUint8Array(env, result.groupBits));
  value.Set("relativeError", result.relativeError);
  value.Set("damping", result.damping);
  value.Set("salienceDamping", result.salienceDamping);
  value.Set("kl", result.kl.empty() ? env.Null() : toFloat64Array(env, result.kl));
  value.Set("salience", result.salience.empty() ? env.Null() : toFloat64Array(env, result.salience));
  value.Set("objective", toFloat64Array(env, result.objective));
  value.Set("seconds", seconds);
  return value;
}

Napi::Value toObject(Napi::Env env, const BitAllocation& allocation) {
  auto value = Napi::Object::New(env);
  value.Set("groupBits", toUint8Array(env, allocation.groupBits));
  value.Set("kl", toFloat64Array(env, allocation.kl));
  return value;
}

}  // namespace slim::addon
