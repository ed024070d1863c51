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

/// The tiles of at most kMost products, cut into tasks. A task is a run of tiles that lie side by side: long
/// enough for the hardware prefetcher, short enough that a thread which is held up by another process leaves
/// its share to the others.
struct alignas(64) ProductTasks {
  static constexpr size_t kLeastBytes = 8 << 10, kMostBytes = 1 << 20, kTasksPerThread = 8;
  static constexpr size_t kMost = 4;

  struct Part {
    PackedProduct product;
    size_t tilesPerTask, tasks;
  };
  struct Task {
    const Part* part;
    size_t index;  // among the part's
    const InterleavedMatrix& matrix() const { return *part->product.matrix; }
    size_t firstTile() const { return index * part->tilesPerTask; }
    size_t tiles() const { return std::min(part->tilesPerTask, matrix().tiles() - firstTile()); }
  };

  size_t count = 0;
  Part parts[kMost];

  ProductTasks(std::span<const PackedProduct> products, size_t threads) {
    size_t bytes = 0;
    for (const PackedProduct& product : products) bytes += product.matrix->bytes();
    const size_t taskBytes = std::clamp(bytes / (threads * kTasksPerThread), kLeastBytes, kMostBytes);
    Part* part = parts;
    for (const PackedProduct& product : products) {
      const size_t tiles = product.matrix->tiles(),
                   most = std::max<size_t>(1, taskBytes / product.matrix->tileBytes());
      *part = {product, most, (tiles + most - 1) / most};
      count += part++->tasks;
    }
  }

  Task task(size_t index) const {
    const Part* part = parts;
    for (; index >= part->tasks; ++part) index -= part->tasks;
    return {part, index};
  }
};

/// What the threads do for some products, and which come next. All that they need lies on a few cache lines.
struct ProductLoop {
  const PackedKernels& kernels;
  const ThreadPool& pool;
  PackedActivations& activations;
  const float* x;
  size_t xStride;
  ProductTasks tasks, next;

  void roundPanel(size_t panel, int) { activations.round(panel, x, xStride); }
  void roundAll() { roundPanel(0, 0); }
  void ahead(size_t index) {
    __builtin_prefetch(&activations);
    const auto task = tasks.task(index);
    task.matrix().prefetch(task.firstTile());
  }
  void multiply(size_t index, int thread) {
    const auto task = tasks.task(index);
    kernels.multiply(task.part->product, activations, task.firstTile(), task.tiles(),
                     stream(task, index, size_t(thread)));
  }

  /// The end of a thread's own share is followed by its share of the next loop. Anything else goes straight
  /// on in memory.
  WeightStream stream(const ProductTasks::Task& task, size_t index, size_t thread) const {
    const InterleavedMatrix& matrix = task.matrix();
    WeightStream stream{matrix.end(), matrix.end(), activations.panels() == 1};
    const auto own = pool.shareOf(thread, tasks.count);
    const size_t left = own.end - index, end = task.index + left;
    // Tasks have more than kLeastBytes / 2 bytes, but for the last of a matrix: what lies kPrefetchBytes
    // ahead is in one of the next four.
    static_assert(kPrefetchBytes <= 3 * ProductTasks::kLeastBytes / 2);
    if (index < own.begin || index >= own.end || left > 4 || end > task.part->tasks) return stream;
    const auto share = pool.shareOf(thread, next.count);
    if (share.begin == share.end) return stream;
    if (end < task.part->tasks) stream.end = matrix.tile(end * task.part->tilesPerTask);
    const auto first = next.task(share.begin);
    stream.next = first.matrix().tile(first.firstTile());
    first.matrix().prefetchSegments();
    return stream;
  }
};

}  // namespace

void multiplyPacked(ThreadPool& pool, size_t tokens, const float* x, size_t xStride,
                    std::span<const PackedProduct> products, PackedActivations& activations,
                    std::span<const PackedProduct> next) {
  if (tokens == 0 || products.empty()) return;
  if (constexpr size_t kMost = ProductTasks::kMost; products.size() > kMost) {
    const auto rest = products.subspan(kMost);
    multiplyPacked(pool, tokens, x, xStride, products.first(kMost), activations, rest);
    return multiplyPacked(pool, tokens, x, xStride, rest, activations, next);
  }
  activations.reserve(tokens, products[0].matrix->cut());
  const size_t threads = size_t(pool.threads());
  ProductLoop loop{activePackedKernels(),
                   pool,
                   activations,
                   x,
                   xStride,
                   ProductTasks(products, threads),
                   ProductTasks(next.first(std::min(next.size(), ProductTasks::kMost)), threads)};
  const size_t tasks = loop.tasks.count;
  const auto multiply = ThreadPool::Body::of<&ProductLoop::multiply>(loop);
  if (activations.panels() > 1) {
    pool.parallelFor(activations.panels(), ThreadPool::Body::of<&ProductLoop::roundPanel>(loop));
    pool.parallelFor(tasks, multiply);
    return;
  }
  // The first weights are on their way from memory while the few tokens are rounded.
  pool.parallelFor(tasks, multiply,
                   {FunctionRef<void(size_t)>::of<&ProductLoop::ahead>(loop),
                    FunctionRef<void()>::of<&ProductLoop::roundAll>(loop)});
}

}  // namespace slim
