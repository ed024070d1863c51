#include "cuda/multiply.h"

#include "cuda/kernels/linear_algebra_arguments.h"

namespace slim::cuda {
namespace {

bool inVectors(const DeviceOperand& operand) { return operand.stride % 4 == 0 && operand.data % 16 == 0; }

MultiplyOperand argumentOf(const DeviceOperand& operand) {
  return {addressOf<const float>(operand.data), operand.stride, inVectors(operand)};
}

std::string shapeOf(const char* name, size_t rows, size_t k, const DeviceOperand& operand) {
  return std::string(name) + " [" + std::to_string(rows) + ", " + std::to_string(k) + "] by " +
         (operand.byColumns ? "columns" : "rows");
}

}  // namespace

Status multiply(Device& device, size_t m, size_t n, size_t k, const DeviceOperand& a, const DeviceOperand& b,
                DeviceAddress c, size_t ldc, const MultiplyOptions& options) {
  if (m == 0 || n == 0) return Status::success();
  MultiplyArguments arguments{};
  arguments.a = argumentOf(a);
  arguments.b = argumentOf(b);
  arguments.c = addressOf<float>(c);
  arguments.ldc = ldc;
  arguments.m = uint32_t(m);
  arguments.n = uint32_t(n);
  arguments.k = uint32_t(k);
  arguments.alpha = options.alpha;
  arguments.accumulate = options.accumulate;
  arguments.upperOnly = options.upperOnly;
  arguments.pairs = ldc % 2 == 0 && c % 8 == 0;
  // The larger tile reads half as much, where there are enough of them for every multiprocessor, and K is
  // long enough to keep its fewer warps busy.
  constexpr size_t kLong = 128;
  const size_t large = divideUp(m, 128) * divideUp(n, 128) / (options.upperOnly ? 2 : 1);
  const bool larger =
      inVectors(a) && inVectors(b) && k >= kLong && large >= size_t(device.info().multiprocessors);
  const size_t tile = larger ? 128 : 64;
  const std::string kernel = std::string("multiply") + std::to_string(tile) +
                             (a.byColumns ? "Column" : "Row") + (b.byColumns ? "Column" : "Row");
  return device.launch(kernel.c_str(),
                       {.gridX = unsigned(divideUp(n, tile)),
                        .gridY = unsigned(divideUp(m, tile)),
                        .threads = unsigned(2 * tile)},
                       arguments, shapeOf("A", m, k, a) + ", " + shapeOf("B", n, k, b));
}

}  // namespace slim::cuda
