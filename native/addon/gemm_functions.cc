#include <algorithm>

#include "addon/arguments.h"
#include "core/stopwatch.h"
#include "cpu/features.h"
#include "cpu/gemm.h"

namespace slim::addon {
namespace {

bool isMatrixDType(DType dtype) { return dtype != DType::I32 && dtype != DType::U8; }

TensorPtr asMatrix(const Napi::Value& value, const std::string& name) {
  TensorPtr tensor = asTensor(value, name);
  if (!isMatrixDType(tensor->dtype()) || tensor->shape().empty())
    throw toError(value.Env(), Status::invalidArgument(name, "a matrix of F32, F16, BF16 or GGUF blocks",
                                                       describeShape(*tensor)));
  return tensor;
}

// matmul(a, b, threads): NativeJob<NativeTensor>
Napi::Value matmul(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto a = asMatrix(info[0], "a"), b = asMatrix(info[1], "b");
  auto pool = asThreads(info[2]);
  if (a->cols() != b->cols())
    throw toError(env,
                  Status::invalidArgument("b", "rows of " + std::to_string(a->cols()) + " elements, as a has",
                                          describeShape(*b)));
  auto c = std::make_shared<TensorPtr>();
  return startJob(
      env,
      [=](const CancelFlag& cancelled) {
        SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {a->rows(), b->rows()}, *c));
        return multiply(*a, Operand::tensor(*b), b->rows(), *pool, cancelled, **c);
      },
      [=](Napi::Env e) { return TensorObject::wrap(e, *c); });
}

/// Rows of a tensor behind the interface of packed matrices.
class TensorReader final : public RowReader {
 public:
  explicit TensorReader(TensorPtr tensor) : tensor_(std::move(tensor)) {}
  void read(size_t row, size_t start, size_t count, float* out) const override {
    readRow(tensor_->dtype(), tensor_->row(row), start, count, out);
  }

 private:
  TensorPtr tensor_;
};

struct CaseOperand {
  TensorPtr tensor;
  std::shared_ptr<TensorReader> reader;
  Operand operand;
};

// { tensor, layout: 'rows' | 'columns' | 'reader' }, which must hold `rows` × `depth` elements.
CaseOperand asOperand(const Napi::Value& value, const std::string& name, size_t rows, size_t depth) {
  const auto object = asObject(value, name);
  CaseOperand result;
  result.tensor = asMatrix(object.Get("tensor"), name + ".tensor");
  const std::string layout = asString(object.Get("layout"), name + ".layout");
  const bool columns = layout == "columns";
  if (layout == "rows") {
    result.operand = Operand::tensor(*result.tensor);
  } else if (columns && result.tensor->dtype() == DType::F32) {
    result.operand = Operand::columnMajor(result.tensor->as<float>(), result.tensor->cols());
  } else if (layout == "reader") {
    result.reader = std::make_shared<TensorReader>(result.tensor);
    result.operand = Operand::rows(*result.reader);
  } else {
    throwInvalid(value.Env(), name + ".layout", "rows, reader or (F32 only) columns", object.Get("layout"));
  }
  if (result.tensor->rows() < (columns ? depth : rows) || result.tensor->cols() < (columns ? rows : depth))
    throw toError(value.Env(),
                  Status::invalidArgument(name + ".tensor",
                                          "at least " + std::to_string(columns ? depth : rows) + " × " +
                                              std::to_string(columns ? rows : depth) + " elements",
                                          describeShape(*result.tensor)));
  return result;
}

// gemmCase(c, options, threads): NativeJob<Float64Array>, the seconds of each repeat.
Napi::Value gemmCase(const Napi::CallbackInfo& info) {
  const auto env = info.Env();
  auto c = asTensor(info[0], "c");
  const auto options = asObject(info[1], "options");
  auto pool = asThreads(info[2]);
  const auto size = [&](const char* name, size_t least) {
    return asSize(options.Get(name), std::string("options.") + name, least);
  };
  const auto flag = [&](const char* name) {
    const auto value = options.Get(name);
    return !isMissing(value) && asBoolean(value, std::string("options.") + name);
  };
  const size_t m = size("m", 0), n = size("n", 0), k = size("k", 0);
  const size_t repeats = isMissing(options.Get("repeats")) ? 1 : size("repeats", 1);
  const size_t batch = isMissing(options.Get("batch")) ? 1 : size("batch", 1);
  const auto a = asOperand(options.Get("a"), "options.a", m, k),
             b = asOperand(options.Get("b"), "options.b", n, k);
  GemmOptions gemmOptions;
  if (!isMissing(options.Get("alpha")))
    gemmOptions.alpha = float(asNumber(options.Get("alpha"), "options.alpha"));
  gemmOptions.accumulate = flag("accumulate");
  gemmOptions.upperOnly = flag("upperOnly");
  const bool reference = flag("reference");
  if (c->dtype() != DType::F32 || c->rows() < batch * m || c->cols() < n)
    throw toError(env, Status::invalidArgument(
                           "c", "at least F32 [" + std::to_string(batch * m) + ", " + std::to_string(n) + "]",
                           describeShape(*c)));
  auto seconds = std::make_shared<std::vector<double>>();
  return startJob(
      env,
      [=](const CancelFlag& cancelled) {
        const auto product = [&](size_t index, int) {
          float* out = c->as<float>() + index * m * c->cols();
          if (reference)
            gemmReference(m, n, k, a.operand, b.operand, out, c->cols(), gemmOptions);
          else
            gemm(*pool, m, n, k, a.operand, b.operand, out, c->cols(), gemmOptions);
        };
        for (size_t r = 0; r < repeats; ++r) {
          if (cancelled) return Status::aborted();
          const Stopwatch stopwatch;
          if (batch == 1)
            product(0, 0);
          else
            pool->parallelFor(batch, product);
          seconds->push_back(stopwatch.seconds());
        }
        return Status::success();
      },
      [=](Napi::Env e) {
        auto array = Napi::Float64Array::New(e, seconds->size());
        std::copy(seconds->begin(), seconds->end(), array.Data());
        return array;
      });
}

Napi::Value instructionSet(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), instructionSetName(activeInstructionSet()));
}

Napi::Value instructionSets(const Napi::CallbackInfo& info) {
  const auto& sets = supportedInstructionSets();
  auto names = Napi::Array::New(info.Env(), sets.size());
  for (size_t i = 0; i < sets.size(); ++i) names.Set(uint32_t(i), instructionSetName(sets[i]));
  return names;
}

Napi::Value chooseInstructionSet(const Napi::CallbackInfo& info) {
  throwIfError(info.Env(), setInstructionSet(asString(info[0], "name")));
  return info.Env().Undefined();
}

}  // namespace

void registerGemm(Napi::Object exports) {
  exportFunction<matmul>(exports, "matmul");
  exportFunction<gemmCase>(exports, "gemmCase");
  exportFunction<instructionSet>(exports, "instructionSet");
  exportFunction<instructionSets>(exports, "instructionSets");
  exportFunction<chooseInstructionSet>(exports, "setInstructionSet");
}

}  // namespace slim::addon
