#include "cuda/multiply.h"

#include "cuda/kernels/linear_algebra_arguments.h"

namespace slim::cuda {
namespace {

bool inVectors(const DeviceOperand& operand, size_t apart) {
  return operand.stride % 4 == 0 && operand.data % 16 == 0 && apart % 4 == 0;
}

MultiplyOperand argumentOf(const DeviceOperand& operand, bool vectors) {
  return {addressOf<const float>(operand.data), operand.stride, vectors};
}

std::string shapeOf(const char* name, size_t rows, size_t k, const DeviceOperand& operand) {
  return std::string(name) + " [" + std::to_string(rows) + ", " + std::to_string(k) + "] by " +
         (operand.byColumns ? "columns" : "rows");
}

}  // namespace

Status multiply(Device& device, size_t m, size_t n, size_t k, const DeviceOperand& a, const DeviceOperand& b,
                DeviceAddress c, size_t ldc, const MultiplyOptions& options) {
  if (m == 0 || n == 0) return Status::success();
  const MultiplyBatch& batch = options.batch;
  const bool vectorsA = inVectors(a, batch.aApart), vectorsB = inVectors(b, batch.bApart);
  MultiplyArguments arguments{};
  arguments.a = argumentOf(a, vectorsA);
  arguments.b = argumentOf(b, vectorsB);
  arguments.c = addressOf<float>(c);
  arguments.ldc = ldc;
  arguments.aApart = batch.aApart;
  arguments.bApart = batch.bApart;
  arguments.cApart = batch.cApart;
  arguments.m = uint32_t(m);
  arguments.n = uint32_t(n);
  arguments.k = uint32_t(k);
  arguments.alpha = options.alpha;
  arguments.accumulate = options.accumulate;
  arguments.upperOnly = options.upperOnly;
  arguments.pairs = ldc % 2 == 0 && c % 8 == 0 && batch.cApart % 2 == 0;
  // The larger tile reads half as much, where there are enough of them for every multiprocessor, and K is
  // long enough to keep its fewer warps busy.
  constexpr size_t kLong = 128;
  const size_t large = batch.count * divideUp(m, 128) * divideUp(n, 128) / (options.upperOnly ? 2 : 1);
  const bool larger = vectorsA && vectorsB && k >= kLong && large >= size_t(device.info().multiprocessors);
  const size_t tile = larger ? 128 : 64;
  const std::string kernel = std::string("multiply") + std::to_string(tile) +
                             (a.byColumns ? "Column" : "Row") + (b.byColumns ? "Column" : "Row");
  return device.launch(kernel.c_str(),
                       {.gridX = unsigned(divideUp(n, tile)),
                        .gridY = unsigned(divideUp(m, tile)),
                        .gridZ = unsigned(batch.count),
                        .threads = unsigned(2 * tile)},
                       arguments, shapeOf("A", m, k, a) + ", " + shapeOf("B", n, k, b));
}

}  // namespace slim::cuda
