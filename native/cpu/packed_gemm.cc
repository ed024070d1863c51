#include "cpu/packed_gemm.h"

#include <algorithm>

#include "cpu/features.h"
#include "cpu/packed_kernels.h"

namespace slim {

const PackedKernels& activePackedKernels() {
#if defined(__x86_64__)
  static const bool vnni = hasVnni();
  if (activeInstructionSet() == InstructionSet::Avx512 && vnni) return kPackedAvx512;
  if (activeInstructionSet() != InstructionSet::Portable) return kPackedAvx2;
#elif defined(__aarch64__)
  static const bool i8mm = hasI8mm();
  if (activeInstructionSet() == InstructionSet::Neon) return i8mm ? kPackedNeonI8mm : kPackedNeon;
#endif
  return kPackedPortable;
}

namespace {

/// A loop over the tiles of at most kMostProducts products. A task is a run of tiles that lie side by side:
/// long enough for the hardware prefetcher, short enough that a thread which is held up by another process
/// leaves its share to the others. All that a thread needs lies on a few cache lines in a row.
struct alignas(64) ProductLoop {
  static constexpr size_t kLeastBytes = 8 << 10, kMostBytes = 1 << 20, kTasksPerThread = 8;
  static constexpr size_t kMostProducts = 4;

  struct Part {
    PackedProduct product;
    size_t tilesPerTask, tasks;
  };
  struct Task {
    const PackedProduct* product;
    size_t first, count;  // of tiles
  };

  const PackedKernels& kernels;
  PackedActivations& activations;
  const float* x;
  size_t xStride, tasks = 0;
  Part parts[kMostProducts];

  ProductLoop(std::span<const PackedProduct> products, int threads, PackedActivations& into,
              const float* input, size_t inputStride)
      : kernels(activePackedKernels()), activations(into), x(input), xStride(inputStride) {
    size_t bytes = 0;
    for (const PackedProduct& product : products) bytes += product.matrix->bytes();
    const size_t taskBytes = std::clamp(bytes / (size_t(threads) * kTasksPerThread), kLeastBytes, kMostBytes);
    Part* part = parts;
    for (const PackedProduct& product : products) {
      const size_t tiles = product.matrix->tiles(),
                   most = std::max<size_t>(1, taskBytes / product.matrix->tileBytes());
      *part = {product, most, (tiles + most - 1) / most};
      tasks += part++->tasks;
    }
  }

  Task task(size_t index) const {
    const Part* part = parts;
    for (; index >= part->tasks; ++part) index -= part->tasks;
    const size_t first = index * part->tilesPerTask;
    return {&part->product, first, std::min(part->tilesPerTask, part->product.matrix->tiles() - first)};
  }

  void roundPanel(size_t panel, int) { activations.round(panel, x, xStride); }
  void roundAll() { roundPanel(0, 0); }
  void ahead(size_t index) {
    __builtin_prefetch(&activations);
    const Task t = task(index);
    t.product->matrix->prefetch(t.first);
  }
  void multiply(size_t index, int) {
    const Task t = task(index);
    kernels.multiply(*t.product, activations, t.first, t.count);
  }
};

}  // namespace

void multiplyPacked(ThreadPool& pool, size_t tokens, const float* x, size_t xStride,
                    std::span<const PackedProduct> products, PackedActivations& activations) {
  if (tokens == 0 || products.empty()) return;
  if (constexpr size_t kMost = ProductLoop::kMostProducts; products.size() > kMost) {
    multiplyPacked(pool, tokens, x, xStride, products.first(kMost), activations);
    return multiplyPacked(pool, tokens, x, xStride, products.subspan(kMost), activations);
  }
  activations.reserve(tokens, products[0].matrix->cut());
  ProductLoop loop(products, pool.threads(), activations, x, xStride);
  const auto multiply = ThreadPool::Body::of<&ProductLoop::multiply>(loop);
  if (activations.panels() > 1) {
    pool.parallelFor(activations.panels(), ThreadPool::Body::of<&ProductLoop::roundPanel>(loop));
    pool.parallelFor(loop.tasks, multiply);
    return;
  }
  // The first weights are on their way from memory while the few tokens are rounded.
  pool.parallelFor(loop.tasks, multiply,
                   {FunctionRef<void(size_t)>::of<&ProductLoop::ahead>(loop),
                    FunctionRef<void()>::of<&ProductLoop::roundAll>(loop)});
}

}  // namespace slim
