// Packed products with all their options, for tests and benchmarks (PackedCase in lib/native/addon.ts).
#include <algorithm>

#include "addon/arguments.h"
#include "addon/packed_object.h"
#include "core/stopwatch.h"
#include "cpu/packed_gemm.h"

namespace slim::addon {
namespace {

struct CaseProduct {
  std::shared_ptr<PackedMatrix> matrix;
  std::shared_ptr<InterleavedCopies> copies;
  TensorPtr y, bias;
  InterleavedCopies::Copies interleaved;
};

CaseProduct asProduct(const Napi::Value& value, const std::string& name, const Tensor& x) {
  const auto env = value.Env();
  const auto object = asObject(value, name);
  CaseProduct product;
  product.matrix = PackedObject::get(object.Get("matrix"));
  if (!product.matrix) throwInvalid(env, name + ".matrix", "a packed matrix", object.Get("matrix"));
  product.copies = PackedObject::copies(object.Get("matrix"));
  product.y = asTensor(object.Get("y"), name + ".y");
  product.bias = asOptionalTensor(object.Get("bias"), name + ".bias");
  const std::string rows = std::to_string(product.matrix->rows());
  if (x.dtype() != DType::F32 || x.cols() != product.matrix->cols())
    throw toError(env,
                  Status::invalidArgument("x", "F32 [tokens, " + std::to_string(product.matrix->cols()) + "]",
                                          describeShape(x)));
  if (product.y->dtype() != DType::F32 || product.y->rows() < x.rows() ||
      product.y->cols() < product.matrix->rows())
    throw toError(env, Status::invalidArgument(
                           name + ".y", "at least F32 [" + std::to_string(x.rows()) + ", " + rows + "]",
                           describeShape(*product.y)));
  if (product.bias &&
      (product.bias->dtype() != DType::F32 || product.bias->elements() != product.matrix->rows()))
    throw toError(
        env, Status::invalidArgument(name + ".bias", "F32 [" + rows + "]", describeShape(*product.bias)));
  return product;
}

// packedCase(x, products, options, threads): NativeJob<Float64Array>, the seconds of each repeat.
Napi::Value packedCase(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto x = asTensor(info[0], "x");
  if (!info[1].IsArray()) throwInvalid(env, "products", "an array", info[1]);
  const auto array = info[1].As<Napi::Array>();
  std::vector<CaseProduct> products;
  for (uint32_t i = 0; i < array.Length(); ++i)
    products.push_back(asProduct(array.Get(i), "products[" + std::to_string(i) + "]", *x));
  const auto options = asObject(info[2], "options");
  auto pool = asThreads(info[3]);
  const auto count = [&](const char* name) {
    return isMissing(options.Get(name)) ? size_t(1)
                                        : asSize(options.Get(name), std::string("options.") + name, 1);
  };
  const size_t repeats = count("repeats"), copies = count("copies");
  const auto accumulateOption = options.Get("accumulate");
  const bool accumulate = !isMissing(accumulateOption) && asBoolean(accumulateOption, "options.accumulate");
  for (const CaseProduct& product : products)
    if (product.matrix->groupSize() != products[0].matrix->groupSize())
      throw toError(env, Status::invalidArgument("products", "matrices of one group size",
                                                 std::to_string(products[0].matrix->groupSize()) + " and " +
                                                     std::to_string(product.matrix->groupSize())));
  auto seconds = std::make_shared<std::vector<double>>();
  return startJob(
      env,
      [=](const CancelFlag& cancelled) mutable {
        std::vector<PackedProduct> all;
        for (CaseProduct& p : products) {
          SLIM_RETURN_IF_ERROR(p.copies->get(*p.matrix, copies, *pool, cancelled, p.interleaved));
          all.push_back(
              {nullptr, p.y->as<float>(), p.y->cols(), accumulate, p.bias ? p.bias->as<float>() : nullptr});
        }
        std::vector<PackedProduct> next = all;
        PackedActivations activations;
        for (size_t r = 0; r < repeats; ++r) {
          if (cancelled) return Status::aborted();
          for (size_t i = 0; i < all.size(); ++i) {
            all[i].matrix = products[i].interleaved[r % copies].get();
            next[i].matrix = products[i].interleaved[(r + 1) % copies].get();
          }
          const Stopwatch stopwatch;
          multiplyPacked(*pool, x->rows(), x->as<float>(), x->cols(), all, activations, next);
          seconds->push_back(stopwatch.seconds());
        }
        return Status::success();
      },
      [=](Napi::Env e) {
        auto result = Napi::Float64Array::New(e, seconds->size());
        std::copy(seconds->begin(), seconds->end(), result.Data());
        return result;
      });
}

}  // namespace

void registerPackedCase(Napi::Object exports) { exportFunction<packedCase>(exports, "packedCase"); }

}  // namespace slim::addon
