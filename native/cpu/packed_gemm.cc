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

void multiplyPacked(ThreadPool& pool, size_t tokens, const float* x, size_t xStride,
                    std::span<const PackedProduct> products, PackedActivations& activations) {
  if (tokens == 0) return;
  activations.reserve(tokens, products[0].matrix->cut());
  // A task is a run of tiles that lie side by side: long enough for the hardware prefetcher, short enough
  // that a thread which is held up by another process leaves its share to the others.
  constexpr size_t kLeastBytes = 8 << 10, kMostBytes = 1 << 20, kTasksPerThread = 8;
  size_t bytes = 0;
  for (const PackedProduct& product : products) bytes += product.matrix->bytes();
  const size_t taskBytes =
      std::clamp(bytes / (size_t(pool.threads()) * kTasksPerThread), kLeastBytes, kMostBytes);
  struct Task {
    const PackedProduct* product;
    size_t first, count;  // of tiles
  };
  const auto tilesOfTask = [&](const PackedProduct& product) {
    return std::max<size_t>(1, taskBytes / product.matrix->tileBytes());
  };
  const auto task = [&](size_t index) -> Task {
    for (const PackedProduct* product = products.data();; ++product) {
      const size_t tiles = product->matrix->tiles(), most = tilesOfTask(*product);
      const size_t tasks = (tiles + most - 1) / most, first = index * most;
      if (index < tasks) return {product, first, std::min(most, tiles - first)};
      index -= tasks;
    }
  };
  size_t tasks = 0;
  for (const PackedProduct& product : products)
    tasks += (product.matrix->tiles() + tilesOfTask(product) - 1) / tilesOfTask(product);
  const PackedKernels& kernels = activePackedKernels();
  const auto multiply = [&](size_t i, int) {
    const Task t = task(i);
    kernels.multiply(*t.product, activations, t.first, t.count);
  };
  const auto round = [&](size_t panel, int) { activations.round(panel, x, xStride); };
  if (activations.panels() > 1) {
    pool.parallelFor(activations.panels(), round);
    pool.parallelFor(tasks, multiply);
    return;
  }
  // One loop for both: the first weights are on their way from memory while the few tokens are rounded.
  const auto ahead = [&](size_t i) {
    const Task t = task(i);
    t.product->matrix->prefetch(t.first);
  };
  const auto roundAll = [&] { round(0, 0); };
  const ThreadPool::Beginning beginning{ahead, roundAll};
  pool.parallelFor(tasks, multiply, &beginning);
}

}  // namespace slim
