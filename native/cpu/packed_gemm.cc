#include "cpu/packed_gemm.h"

#include <algorithm>
#include <vector>

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

void multiplyPacked(ThreadPool& pool, const PackedActivations& x, std::span<const PackedProduct> products) {
  if (x.tokens() == 0) return;
  // A task is a run of tiles that lie side by side: long enough for the hardware prefetcher, short enough
  // that a thread which is held up by another process leaves its share to the others.
  constexpr size_t kLeastBytes = 8 << 10, kMostBytes = 1 << 20, kTasksPerThread = 8;
  size_t bytes = 0;
  for (const PackedProduct& product : products) bytes += product.matrix->bytes();
  const size_t taskBytes =
      std::clamp(bytes / (size_t(pool.threads()) * kTasksPerThread), kLeastBytes, kMostBytes);
  struct Task {
    const PackedProduct* product;
    size_t first, count;
  };
  std::vector<Task> tasks;
  for (const PackedProduct& product : products) {
    const size_t tiles = product.matrix->tiles(),
                 count = std::max<size_t>(1, taskBytes / product.matrix->tileBytes());
    for (size_t first = 0; first < tiles; first += count)
      tasks.push_back({&product, first, std::min(count, tiles - first)});
  }
  const PackedKernels& kernels = activePackedKernels();
  pool.parallelFor(tasks.size(), [&](size_t i, int) {
    kernels.multiply(*tasks[i].product, x, tasks[i].first, tasks[i].count);
  });
}

}  // namespace slim
