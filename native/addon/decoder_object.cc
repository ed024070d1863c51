#include "addon/decoder_object.h"

#include "addon/arguments.h"
#include "addon/sampler_object.h"

namespace slim::addon {
namespace {

// applyKernel(name, x): Float32Array
Napi::Value applyKernel(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const std::string name = asString(info[0], "name");
  TensorPtr x = asTensor(info[1], "x");
  if (x->dtype() != DType::F32) throwInvalid(env, "x", "a tensor of F32", info[1]);
  const DecoderKernels& kernels = decoderKernels();
  const std::pair<const char*, void (*)(float*, size_t)> functions[] = {
      {"exp", kernels.exp},
      {"tanh", kernels.tanh},
      {"silu", kernels.silu},
      {"gelu", kernels.gelu},
      {"geluTanh", kernels.geluTanh},
      {"siluGradient", kernels.siluGradient},
      {"geluGradient", kernels.geluGradient},
      {"geluTanhGradient", kernels.geluTanhGradient}};
  for (const auto& [known, function] : functions) {
    if (name != known) continue;
    auto result = Napi::Float32Array::New(env, x->elements());
    std::copy_n(x->as<float>(), x->elements(), result.Data());
    function(result.Data(), x->elements());
    return result;
  }
  throwInvalid(env, "name", "exp, tanh, silu, gelu, geluTanh, or one of the last three with Gradient",
               info[0]);
}

// attention(q, k, v, { window, softcap, scale }, threads): NativeJob<Float32Array>
Napi::Value attentionFunction(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  const char* names[] = {"q", "k", "v"};
  TensorPtr qkv[3];
  for (size_t i = 0; i < 3; ++i) {
    qkv[i] = asTensor(info[i], names[i]);
    if (qkv[i]->dtype() != DType::F32 || qkv[i]->shape().size() != 3)
      throwInvalid(env, names[i], "a tensor [tokens, heads, headDim] of F32", info[i]);
  }
  const auto& q = qkv[0]->shape();
  const auto& k = qkv[1]->shape();
  if (k != qkv[2]->shape() || q[2] != k[2] || q[0] > k[0] || q[0] == 0 || k[1] == 0 || q[1] % k[1] != 0)
    throwInvalid(env, "k",
                 "the shape of v, with q's headDim, at least its tokens, and a divisor of its heads",
                 info[1]);
  const auto options = asObject(info[3], "options");
  auto spec = std::make_shared<BlockSpec>();
  spec->heads = q[1];
  spec->kvHeads = k[1];
  spec->headDim = q[2];
  spec->attention.scale = float(asNumber(options.Get("scale"), "scale"));
  spec->attention.softcap = float(asNumber(options.Get("softcap"), "softcap"));
  spec->attention.window = asSize(options.Get("window"), "window");
  auto pool = asThreads(info[4]);
  auto out = std::make_shared<std::vector<float>>(qkv[0]->elements());
  return startJob(
      env,
      [=, q = qkv[0], k = qkv[1], v = qkv[2]](const CancelFlag&) {
        const size_t past = k->shape()[0] - q->shape()[0], headDim = spec->headDim;
        KeyValues keyValues;
        SLIM_RETURN_IF_ERROR(keyValues.allocate(*spec, k->shape()[0]));
        for (size_t t = 0; t < past; ++t)
          for (size_t h = 0; h < spec->kvHeads; ++h) {
            const size_t at = (t * spec->kvHeads + h) * headDim;
            keyValues.store(h, t, k->as<float>() + at, v->as<float>() + at);
          }
        TokenTile tile{1, q->shape()[0], past};
        std::vector<float> rows(tile.length * spec->qkvWidth());
        for (size_t t = 0; t < tile.length; ++t) {
          float* row = rows.data() + t * spec->qkvWidth();
          std::copy_n(q->as<float>() + t * spec->queryWidth(), spec->queryWidth(), row);
          std::copy_n(k->as<float>() + (past + t) * spec->keyWidth(), spec->keyWidth(),
                      row + spec->queryWidth());
          std::copy_n(v->as<float>() + (past + t) * spec->keyWidth(), spec->keyWidth(),
                      row + spec->queryWidth() + spec->keyWidth());
        }
        std::vector<FloatBuffer> scratch;
        prepareHeads(*pool, *spec, Norm(), Norm(), RotaryTable(), tile, rows.data(), &keyValues);
        attention(*pool, *spec, tile, rows.data(), &keyValues, out->data(), scratch);
        return Status::success();
      },
      [=](Napi::Env e) {
        auto array = Napi::Float32Array::New(e, out->size());
        std::copy(out->begin(), out->end(), array.Data());
        return array;
      });
}

}  // namespace

void registerDecoder(Napi::Env env, Napi::Object exports) {
  exports.Set("DecoderBlock", DecoderBlockObject::define(env));
  const auto decoderModel = DecoderModelObject::define(env);
  exports.Set("DecoderModel", decoderModel);
  env.GetInstanceData<AddonData>()->decoderModel = Napi::Persistent(decoderModel);
  exports.Set("Sampler", SamplerObject::define(env));
  env.GetInstanceData<AddonData>()->kvCache = Napi::Persistent(KvCacheObject::define(env));
  exportFunction<embedTokens>(exports, "embedTokens");
  exportFunction<headGradientFunction>(exports, "headGradient");
  exportFunction<applyKernel>(exports, "applyKernel");
  exportFunction<attentionFunction>(exports, "attention");
}

}  // namespace slim::addon
