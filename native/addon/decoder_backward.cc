// The backward pass as JavaScript sees it: DecoderBlock.backward and headGradient (lib/native/addon.ts).
#include <algorithm>
#include <cmath>

#include "addon/arguments.h"
#include "addon/decoder_object.h"
#include "decoder/block_backward.h"

namespace slim::addon {
namespace {

TensorPtr asStates(const Napi::Value& value, const std::string& name, size_t hidden) {
  TensorPtr states = asTensor(value, name);
  if (states->dtype() != DType::F32 || states->shape().size() != 2 || states->cols() != hidden)
    throwInvalid(value.Env(), name, "a tensor [tokens, " + std::to_string(hidden) + "] of F32", value);
  return states;
}

bool asFlag(const Napi::Object& options, const char* name) {
  const Napi::Value value = options.Get(name);
  return !isMissing(value) && asBoolean(value, name);
}

template <typename Array, typename Element>
Napi::Object toArrays(Napi::Env env, const std::map<std::string, std::vector<Element>>& values) {
  auto object = Napi::Object::New(env);
  for (const auto& [name, elements] : values) {
    auto array = Array::New(env, elements.size());
    std::copy(elements.begin(), elements.end(), array.Data());
    object.Set(name, array);
  }
  return object;
}

Status toTensors(const WeightGradients& gradients, std::map<std::string, TensorPtr>& out) {
  for (const auto& [role, matrix] : gradients.matrices()) {
    SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {matrix.rows, matrix.cols}, out[role]));
    std::copy(matrix.values.begin(), matrix.values.end(), out[role]->as<float>());
  }
  return Status::success();
}

}  // namespace

Napi::Object toBlockGradients(Napi::Env env, const std::map<std::string, std::vector<double>>& fisher,
                              const std::map<std::string, std::vector<float>>& tokenPowers,
                              const std::map<std::string, TensorPtr>& weightGradients) {
  auto object = Napi::Object::New(env), weights = Napi::Object::New(env);
  object.Set("fisher", toArrays<Napi::Float64Array>(env, fisher));
  object.Set("tokenPowers", toArrays<Napi::Float32Array>(env, tokenPowers));
  for (const auto& [role, tensor] : weightGradients) weights.Set(role, TensorObject::wrap(env, tensor));
  object.Set("weightGradients", weights);
  return object;
}

// backward(inputs, gradients, { sequenceLength, taps?, fisher?, weightGradients? }, threads):
// NativeJob<BlockGradients>
Napi::Value DecoderBlockObject::backward(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  if (!block_) throw toError(env, Status::error("SLIM_DISPOSED", "The decoder block is disposed"));
  const size_t hidden = block_->spec().hiddenSize;
  TensorPtr inputs = asStates(info[0], "inputs", hidden), gradients = asStates(info[1], "gradients", hidden);
  if (inputs->rows() != gradients->rows() || inputs == gradients)
    throwInvalid(env, "gradients", "another tensor " + describeShape(*inputs) + ", as inputs", info[1]);
  const auto options = asObject(info[2], "options");
  const size_t sequenceLength = asSize(options.Get("sequenceLength"), "sequenceLength", 1);
  auto taps = asTaps(options.Get("taps"), *block_);
  struct Result {
    std::unique_ptr<FisherSums> fisher;
    std::unique_ptr<WeightGradients> weights;
    std::map<std::string, TensorPtr> weightTensors;
  };
  auto result = std::make_shared<Result>();
  if (asFlag(options, "fisher")) result->fisher = std::make_unique<FisherSums>(inputs->rows());
  if (asFlag(options, "weightGradients")) result->weights = std::make_unique<WeightGradients>();
  auto pool = asThreads(info[3]);
  return startJob(
      env,
      [=, block = block_](const CancelFlag& cancelled) {
        std::vector<GradientSink*> sinks;
        if (result->fisher) sinks.push_back(result->fisher.get());
        if (result->weights) sinks.push_back(result->weights.get());
        BackwardScratch scratch;
        SLIM_RETURN_IF_ERROR(block->backward(inputs->as<float>(), gradients->as<float>(), inputs->rows(),
                                             sequenceLength, taps.get(), sinks, scratch, *pool, cancelled));
        return result->weights ? toTensors(*result->weights, result->weightTensors) : Status::success();
      },
      [=](Napi::Env e) {
        const FisherSums none(0), &fisher = result->fisher ? *result->fisher : none;
        return toBlockGradients(e, fisher.rows(), fisher.tokenPowers(), result->weightTensors);
      });
}

HeadStep asHeadStep(const Napi::Value& value) {
  const auto env = value.Env();
  const auto options = asObject(value, "options");
  auto head = std::make_shared<Head>();
  head->weight = asWeight(options.Get("head"), "head");
  const size_t hidden = head->weight.cols;
  throwIfError(env, head->weight.check("head", std::max<size_t>(head->weight.rows, 1), hidden));
  if (const Napi::Value given = options.Get("finalNorm"); !isMissing(given)) {
    const auto norm = asObject(given, "finalNorm");
    std::vector<float> weight, bias;
    throwIfError(env, readVector(asTensor(norm.Get("weight"), "finalNorm.weight"), "finalNorm.weight", hidden,
                                 weight));
    if (TensorPtr tensor = asOptionalTensor(norm.Get("bias"), "finalNorm.bias"))
      throwIfError(env, readVector(tensor, "finalNorm.bias", hidden, bias));
    head->finalNorm = Norm(asNormSpec(options.Get("norm"), "norm"), std::move(weight), std::move(bias));
  }
  head->logitSoftcap = float(asNumber(options.Get("logitSoftcap"), "logitSoftcap"));
  HeadStep step{std::move(head), {}, asSize(options.Get("sequenceLength"), "sequenceLength", 1)};
  if (const Napi::Value given = options.Get("labels"); !isMissing(given))
    step.labels.given = asIds(given, "labels");
  if (const Napi::Value seed = options.Get("seed"); !isMissing(seed)) step.labels.seed = asSeed(seed);
  if (const Napi::Value first = options.Get("firstToken"); !isMissing(first))
    step.labels.firstToken = asSize(first, "firstToken");
  return step;
}

Napi::Value toObject(Napi::Env env, const HeadGradient& result, const Napi::Value& gradients) {
  auto object = Napi::Object::New(env);
  object.Set("gradients", gradients);
  object.Set("nll", result.nll);
  object.Set("count", double(result.count));
  auto labels = Napi::Int32Array::New(env, result.labels.size());
  std::copy(result.labels.begin(), result.labels.end(), labels.Data());
  object.Set("labels", labels);
  return object;
}

// headGradient(states, HeadOptions, threads): NativeJob<HeadGradient<NativeTensor>>
Napi::Value headGradientFunction(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const HeadStep step = asHeadStep(info[1]);
  TensorPtr states = asStates(info[0], "states", step.head->weight.cols);
  auto pool = asThreads(info[2]);
  auto gradients = std::make_shared<TensorPtr>();
  auto result = std::make_shared<HeadGradient>();
  return startJob(
      env,
      [=](const CancelFlag& cancelled) {
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, states->shape(), *gradients));
        return headGradient(*step.head, step.labels, states->as<float>(), states->rows(), step.sequenceLength,
                            (*gradients)->as<float>(), *result, *pool, cancelled);
      },
      [=](Napi::Env e) { return toObject(e, *result, TensorObject::wrap(e, *gradients)); });
}

}  // namespace slim::addon
