// Next tokens drawn on a CUDA device, as its method for JavaScript.
#include "addon/arguments.h"
#include "addon/cuda_object.h"
#include "addon/sampler_object.h"
#include "cuda/sampling.h"

namespace slim::addon {
namespace {

struct Rows {
  TensorPtr logits;
  std::vector<std::shared_ptr<SharedSampler>> samplers;
  std::vector<BusyHold> holds;  // until the promise settles
  std::vector<std::optional<SampledToken>> tokens;

  // Samplers move on at the end, all or none.
  Status sample(cuda::Device& device) {
    const size_t vocab = logits->cols();
    cuda::SamplingInput input;
    std::vector<Sampler> next;
    for (const auto& shared : samplers) input.add(next.emplace_back(shared->sampler), vocab);
    const auto lock = device.use();
    cuda::DeviceBuffer<float> rows;
    cuda::SamplingBuffers buffers;
    SLIM_RETURN_IF_ERROR(device.upload(logits->as<float>(), logits->elements(), "logits", rows));
    SLIM_RETURN_IF_ERROR(buffers.reserve(device, cuda::SamplingBuffers::shapeOf(input)));
    SLIM_RETURN_IF_ERROR(buffers.upload(device, input));
    SLIM_RETURN_IF_ERROR(buffers.sample(device, rows.address(), vocab));
    SLIM_RETURN_IF_ERROR(buffers.read(device, input, tokens));
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (!tokens[i]) {
        Status status = nonFiniteLogits();
        status.parameter = std::string("logits[") + std::to_string(i) + "]";
        return status;
      }
      next[i].accept(tokens[i]->tokenId);
    }
    for (size_t i = 0; i < tokens.size(); ++i) samplers[i]->sampler = std::move(next[i]);
    return Status::success();
  }
};

}  // namespace

// sample(logits, samplers): NativeJob<SampledToken[]>
Napi::Value CudaDeviceObject::sample(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto device = this->device(info);
  auto rows = std::make_shared<Rows>();
  rows->logits = asTensor(info[0], "logits");
  const size_t count = info[1].IsArray() ? info[1].As<Napi::Array>().Length() : 0;
  if (rows->logits->dtype() != DType::F32 || rows->logits->shape().size() != 2 || count == 0 ||
      rows->logits->rows() != count || rows->logits->cols() == 0)
    throwInvalid(env, "logits",
                 std::string("F32 [rows, vocab], a row for each of ") + std::to_string(count) + " samplers",
                 info[0]);
  for (size_t i = 0; i < count; ++i) {
    const std::string name = std::string("samplers[") + std::to_string(i) + "]";
    const Napi::Value given = info[1].As<Napi::Array>().Get(uint32_t(i));
    auto sampler = SamplerObject::get(given);
    if (!sampler) throwInvalid(env, name, "a sampler that is not disposed", given);
    rows->holds.push_back(
        hold(env, sampler, name, "a sampler that no step is using", "Use one sampler a row"));
    rows->samplers.push_back(std::move(sampler));
  }
  return startJob(
      env, [=](const CancelFlag&) { return rows->sample(*device); },
      [rows](Napi::Env e) {
        auto result = Napi::Array::New(e, rows->tokens.size());
        for (size_t i = 0; i < rows->tokens.size(); ++i)
          result.Set(uint32_t(i), toValue(e, *rows->tokens[i]));
        return result;
      });
}

}  // namespace slim::addon
