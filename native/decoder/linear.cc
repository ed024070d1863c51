#include "decoder/linear.h"

#include <algorithm>
#include <cmath>

namespace slim {

Status Weight::check(const std::string& role, size_t expectedRows, size_t expectedCols) const {
  const auto shape = [](size_t r, size_t c) {
    return std::string("[").append(std::to_string(r)).append(", ").append(std::to_string(c)).append("]");
  };
  if (!*this)
    return Status::invalidArgument(role, "a weight " + shape(expectedRows, expectedCols), "nothing");
  if (dense && (dense->shape().size() != 2 || !isFloat(dense->dtype())))
    return Status::invalidArgument(role, "a matrix of F32, F16 or BF16", describeShape(*dense),
                                   dense->shape().size() == 2 ? "Convert it with convertTensor first" : "");
  if (rows != expectedRows || cols != expectedCols)
    return Status::invalidArgument(role, "shape " + shape(expectedRows, expectedCols), shape(rows, cols));
  return Status::success();
}

Status readVector(const TensorPtr& tensor, const std::string& role, size_t length, std::vector<float>& out) {
  if (tensor->shape().size() != 1 || tensor->cols() != length || !isFloat(tensor->dtype())) {
    return Status::invalidArgument(role, "a vector of " + std::to_string(length) + " F32, F16 or BF16",
                                   describeShape(*tensor));
  }
  out.resize(length);
  readRow(tensor->dtype(), tensor->data(), 0, length, out.data());
  return Status::success();
}

Status Linear::interleave(ThreadPool& pool, const CancelFlag& cancelled) {
  if (!weight.packed || interleaved) return Status::success();
  return InterleavedMatrix::make(*weight.packed, pool, cancelled, interleaved);
}

namespace {

/// parts [2 · tokens, cols]: of every token what its int8 form will be, and the rest. Segments that hold no
/// finite or no large enough number are left whole.
void splitInput(ThreadPool& pool, size_t tokens, const float* x, size_t xStride, const Segments& cut,
                float* parts) {
  constexpr size_t kTokens = 4;
  constexpr float kLeast = 1e-30f;  // the rest is a normal number still
  pool.parallelFor((tokens + kTokens - 1) / kTokens, [&](size_t task, int) {
    for (size_t t = task * kTokens; t < std::min(tokens, (task + 1) * kTokens); ++t)
      for (size_t s = 0; s < cut.count(); ++s) {
        const size_t width = cut.width(s);
        const float* from = x + t * xStride + cut.begin(s);
        float* whole = parts + 2 * t * cut.cols + cut.begin(s);
        float* rest = whole + cut.cols;
        float most = 0;
        for (size_t i = 0; i < width; ++i) most = std::max(most, std::abs(from[i]));
        const float scale = most / 127, inverse = most > kLeast ? 127 / most : 0;
        for (size_t i = 0; i < width; ++i) {
          whole[i] = inverse > 0 ? std::nearbyint(from[i] * inverse) * scale : from[i];
          rest[i] = inverse > 0 ? from[i] - whole[i] : 0;
        }
      }
  });
}

void multiplySplit(ThreadPool& pool, size_t tokens, const float* x, size_t xStride, const Segments& cut,
                   std::vector<PackedProduct> products, std::span<const PackedProduct> next,
                   IntegerInput& int8) {
  float* parts = int8.parts.reserve(2 * tokens * cut.cols);
  splitInput(pool, tokens, x, xStride, cut, parts);
  size_t width = 0;
  for (const PackedProduct& product : products) width += product.matrix->rows();
  float* sums = int8.products.reserve(2 * tokens * width);
  std::vector<PackedProduct> halves;
  size_t at = 0;
  for (const PackedProduct& product : products) {
    halves.push_back({product.matrix, sums + at, width});
    at += product.matrix->rows();
  }
  multiplyPacked(pool, 2 * tokens, parts, cut.cols, halves, int8.activations, next);
  constexpr size_t kRows = 4096;
  const size_t chunks = (width + kRows - 1) / kRows;
  pool.parallelFor(tokens * chunks, [&](size_t task, int) {
    const size_t t = task / chunks, first = task % chunks * kRows, end = std::min(width, first + kRows);
    const float *whole = sums + 2 * t * width, *rest = whole + width;
    size_t start = 0;  // of a product's rows among all
    for (const PackedProduct& product : products) {
      const size_t rows = product.matrix->rows();
      float* y = product.y + t * product.yStride;
      for (size_t r = std::max(first, start); r < std::min(end, start + rows); ++r) {
        const float bias = product.bias ? product.bias[r - start] : 0.0f;
        const float sum = whole[r] + rest[r] + bias;
        y[r - start] = product.accumulate ? y[r - start] + sum : sum;
      }
      start += rows;
    }
  });
}

}  // namespace

void applyLinears(ThreadPool& pool, size_t tokens, const float* x, size_t xStride,
                  std::span<const LinearOutput> outputs, IntegerInput* int8, bool split) {
  const auto inIntegers = [&](const LinearOutput& out) { return int8 && out.linear->interleaved; };
  for (size_t i = 0; i < outputs.size(); ++i) {
    const LinearOutput& first = outputs[i];
    if (!inIntegers(first)) {
      first.linear->apply(pool, tokens, x, xStride, first.y, first.yStride, first.accumulate);
      continue;
    }
    // Layers whose groups differ in size cut the input in other ways: those cut alike are multiplied at once.
    const Segments& cut = first.linear->interleaved->cut();
    const auto alike = [&](const LinearOutput& out) {
      return inIntegers(out) && out.linear->interleaved->cut() == cut;
    };
    if (std::any_of(outputs.begin(), outputs.begin() + ptrdiff_t(i), alike)) continue;
    std::vector<PackedProduct> products;
    for (const LinearOutput& out : outputs.subspan(i))
      if (alike(out)) {
        const Linear& linear = *out.linear;
        products.push_back({linear.interleaved.get(), out.y, out.yStride, out.accumulate,
                            linear.bias.empty() ? nullptr : linear.bias.data()});
      }
    std::span<const PackedProduct> next;
    if (int8->nextOf)
      if (const auto found = int8->nextOf->find(first.linear); found != int8->nextOf->end())
        next = found->second;
    if (split) {
      multiplySplit(pool, tokens, x, xStride, cut, std::move(products), next, *int8);
      continue;
    }
    multiplyPacked(pool, tokens, x, xStride, products, int8->activations, next);
  }
}

void Linear::apply(ThreadPool& pool, size_t tokens, const float* x, size_t xStride, float* y, size_t yStride,
                   bool accumulate) const {
  if (!bias.empty()) {  // the product is accumulated onto the bias: no second pass over y
    constexpr size_t kRows = 32;
    pool.parallelFor((tokens + kRows - 1) / kRows, [&](size_t tile, int) {
      for (size_t t = tile * kRows; t < std::min(tokens, (tile + 1) * kRows); ++t) {
        float* row = y + t * yStride;
        if (!accumulate)
          std::copy(bias.begin(), bias.end(), row);
        else
          for (size_t i = 0; i < bias.size(); ++i) row[i] += bias[i];
      }
    });
  }
  GemmOptions options;
  options.accumulate = accumulate || !bias.empty();
  gemm(pool, tokens, weight.rows, weight.cols, Operand::rowMajor(x, xStride), weight.operand(), y, yStride,
       options);
}

void Linear::backward(ThreadPool& pool, size_t tokens, const float* dy, size_t dyStride, float* dx,
                      size_t dxStride, bool accumulate, FloatBuffer& decoded) const {
  const size_t rows = weight.rows, cols = weight.cols;
  GemmOptions options;
  options.accumulate = accumulate;
  if (weight.dense && weight.dense->dtype() == DType::F32) {
    gemm(pool, tokens, cols, rows, Operand::rowMajor(dy, dyStride),
         Operand::columnMajor(weight.dense->as<float>(), cols), dx, dxStride, options);
    return;
  }
  constexpr size_t kRows = 3072, kTask = 16;  // of W: a whole number of the product's depth blocks
  float* w = decoded.reserve(std::min(rows, kRows) * cols);
  for (size_t first = 0; first < rows; first += kRows) {
    const size_t count = std::min(kRows, rows - first);
    pool.parallelFor((count + kTask - 1) / kTask, [&](size_t task, int) {
      for (size_t r = task * kTask; r < std::min(count, (task + 1) * kTask); ++r)
        weight.read(first + r, w + r * cols);
    });
    gemm(pool, tokens, cols, count, Operand::rowMajor(dy + first, dyStride), Operand::columnMajor(w, cols),
         dx, dxStride, options);
    options.accumulate = true;
  }
}

}  // namespace slim
