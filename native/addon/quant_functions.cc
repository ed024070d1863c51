// The quantization steps as jobs: quantizeLinear, and its parts groupSalience, allocateBits, inverseFactor,
// fitGroups and gptq.
#include <cmath>
#include <cstring>

#include "addon/arguments.h"
#include "addon/hessian_object.h"
#include "addon/packed_object.h"
#include "addon/quant_arguments.h"
#include "quant/group_errors.h"
#include "quant/quantize_linear.h"
#include "quant/salience.h"

namespace slim::addon {
namespace {

// quantizeLinear(weight, hessian, options, threads): NativeJob<QuantizedLinear>
Napi::Value quantizeLinearStep(const Napi::CallbackInfo& info) {
  auto weight = asTensor(info[0], "weight");
  auto hessian = asHessian(info[1], "hessian");
  const QuantizeLinearOptions options = asQuantizeLinearOptions(info[2]);
  auto pool = asThreads(info[3]);
  auto result = std::make_shared<QuantizedLinear>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        return quantizeLinear(*weight, *hessian, options, *pool, cancelled, *result);
      },
      [=](Napi::Env e) { return toObject(e, *result); });
}

// groupSalience(weight, hessian, groupSize, threads): NativeJob<Float64Array>
Napi::Value groupSalienceStep(const Napi::CallbackInfo& info) {
  const auto weight = asGroupedWeight(info[0], info[2], "groupSize");
  auto h = asFloatMatrix(info[1], "hessian", weight.groups.cols, weight.groups.cols);
  auto pool = asThreads(info[3]);
  auto salience = std::make_shared<std::vector<double>>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        const size_t cols = weight.groups.cols;
        std::vector<float> w, diagonal(cols);
        SLIM_RETURN_IF_ERROR(loadWeight(*weight.tensor, *pool, cancelled, w));
        InverseFactor factor;
        SLIM_RETURN_IF_ERROR(
            factorInverse(h->as<float>(), cols, 1, Damping::Salience, *pool, cancelled, factor));
        clearDeadChannels(w, factor.dead);
        for (size_t j = 0; j < cols; ++j) diagonal[j] = factor.upper[j * cols + j];
        *salience = groupSalience({w.data(), w.size() / cols, weight.groups}, diagonal.data(), *pool);
        return Status::success();
      },
      [=](Napi::Env e) { return toFloat64Array(e, *salience); });
}

// inverseFactor(hessian, damping, threads): NativeJob<{ upper, damping, dead }>
Napi::Value inverseFactorStep(const Napi::CallbackInfo& info) {
  const size_t size = asTensor(info[0], "hessian")->cols();
  auto h = asFloatMatrix(info[0], "hessian", size, size);
  const std::string name = asString(info[1], "damping");
  if (name != "salience" && name != "gptq")
    throwInvalid(info.Env(), "damping", "\"salience\" or \"gptq\"", info[1]);
  auto pool = asThreads(info[2]);
  auto factor = std::make_shared<InverseFactor>();
  auto upper = std::make_shared<TensorPtr>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        SLIM_RETURN_IF_ERROR(factorInverse(h->as<float>(), size, 1,
                                           name == "gptq" ? Damping::Gptq : Damping::Salience, *pool,
                                           cancelled, *factor));
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {size, size}, *upper));
        std::memcpy((*upper)->data(), factor->upper.data(), factor->upper.size() * sizeof(float));
        return Status::success();
      },
      [=](Napi::Env e) {
        auto value = Napi::Object::New(e);
        value.Set("upper", TensorObject::wrap(e, *upper));
        value.Set("damping", factor->damping);
        value.Set("dead", toUint8Array(e, factor->dead));
        return value;
      });
}

// allocateBits(weight, samples, salience, { bits, groupSize, sequences }, threads)
Napi::Value allocateBitsStep(const Napi::CallbackInfo& info) {
  const auto step = asAllocationStep(info[0], info[1], info[2], info[3]);
  auto pool = asThreads(info[4]);
  auto allocation = std::make_shared<BitAllocation>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        std::vector<float> w;
        SLIM_RETURN_IF_ERROR(loadWeight(*step.weight.tensor, *pool, cancelled, w));
        return allocateBits({w.data(), w.size() / step.weight.groups.cols, step.weight.groups},
                            {step.samples->as<float>(), step.samples->rows(), step.sequences}, step.salience,
                            step.bits, *pool, cancelled, *allocation);
      },
      [=](Napi::Env e) { return toObject(e, *allocation); });
}

// groupErrors(weight, hessian, rows, { groupSize, quantizer, mostBits }, threads): NativeJob<Float64Array>
Napi::Value groupErrorsStep(const Napi::CallbackInfo& info) {
  const auto step = asGroupErrorsStep(info[0], info[2], info[3]);
  auto hessian = asHessian(info[1], "hessian");
  auto pool = asThreads(info[4]);
  auto errors = std::make_shared<std::vector<double>>();
  return startJob(
      info.Env(),
      [=](const CancelFlag& cancelled) {
        const auto reading = hessian->reading();
        const size_t cols = step.weight.groups.cols;
        SLIM_RETURN_IF_ERROR(checkHessian(hessian->size(), hessian->sequences(), cols));
        std::vector<float> w;
        SLIM_RETURN_IF_ERROR(loadWeight(*step.weight.tensor, *pool, cancelled, w));
        clearDeadChannels(w, hessian->deadChannels());
        std::shared_ptr<const InverseFactor> factor;
        SLIM_RETURN_IF_ERROR(hessian->gptqFactor(*pool, cancelled, factor));
        const std::vector<float> h = hessian->diagonal();
        return groupErrors({w.data(), w.size() / cols, step.weight.groups},
                           {*factor, h.data(), step.rows.data()}, step.mostBits, step.quantizer, *pool,
                           cancelled, *errors);
      },
      [=](Napi::Env e) { return toFloat64Array(e, *errors); });
}

// What fitGroups and gptq share: quantize with the given bits, compensated or not, and pack.
Napi::Value quantizeStep(Napi::Env env, const Napi::Value& weightValue, TensorPtr h,
                         const Napi::Value& groupBitsValue, const Napi::Object& options,
                         const Napi::Value& threads, bool compensate) {
  const auto weight = asGroupedWeight(weightValue, options.Get("groupSize"), "options.groupSize");
  const auto groupBits = asGroupBits(groupBitsValue, "groupBits");
  throwIfError(env, checkGroupBits(groupBits, weight.groups));
  const auto quantizer = asQuantizer(options.Get("quantizer"), "options.quantizer");
  const bool exactScales = options.Get("exactScales").ToBoolean();
  auto pool = asThreads(threads);
  auto packed = std::make_shared<std::shared_ptr<PackedMatrix>>();
  return startJob(
      env,
      [=](const CancelFlag& cancelled) {
        const size_t cols = weight.groups.cols;
        std::vector<float> w;
        SLIM_RETURN_IF_ERROR(loadWeight(*weight.tensor, *pool, cancelled, w));
        InverseFactor factor;
        if (compensate) {
          SLIM_RETURN_IF_ERROR(
              factorInverse(h->as<float>(), cols, 1, Damping::Gptq, *pool, cancelled, factor));
          clearDeadChannels(w, factor.dead);
        }
        GroupCodes codes;
        QuantizationSeconds seconds;
        std::vector<float> diagonal;
        if (compensate)
          for (size_t j = 0; j < cols; ++j) diagonal.push_back(h->as<float>()[j * cols + j]);
        SLIM_RETURN_IF_ERROR(quantizeGroups(w, w.size() / cols, weight.groups, groupBits,
                                            {.quantizer = quantizer,
                                             .h = compensate ? diagonal.data() : nullptr,
                                             .factor = compensate ? &factor : nullptr,
                                             .exactScales = exactScales},
                                            *pool, cancelled, codes, seconds));
        return PackedMatrix::pack(codes, *packed);
      },
      [=](Napi::Env e) { return PackedObject::wrap(e, *packed); });
}

// fitGroups(weight, groupBits, { groupSize, quantizer }, threads): NativeJob<NativePackedMatrix>
Napi::Value fitGroupsStep(const Napi::CallbackInfo& info) {
  return quantizeStep(info.Env(), info[0], nullptr, info[1], asObject(info[2], "options"), info[3], false);
}

// gptq(weight, hessian, groupBits, { groupSize, quantizer }, threads): NativeJob<NativePackedMatrix>
Napi::Value gptqStep(const Napi::CallbackInfo& info) {
  const size_t cols = asTensor(info[0], "weight")->cols();
  return quantizeStep(info.Env(), info[0], asFloatMatrix(info[1], "hessian", cols, cols), info[2],
                      asObject(info[3], "options"), info[4], true);
}

}  // namespace

void registerQuant(Napi::Object exports) {
  exportFunction<quantizeLinearStep>(exports, "quantizeLinear");
  exportFunction<groupSalienceStep>(exports, "groupSalience");
  exportFunction<inverseFactorStep>(exports, "inverseFactor");
  exportFunction<allocateBitsStep>(exports, "allocateBits");
  exportFunction<groupErrorsStep>(exports, "groupErrors");
  exportFunction<fitGroupsStep>(exports, "fitGroups");
  exportFunction<gptqStep>(exports, "gptq");
}

}  // namespace slim::addon
