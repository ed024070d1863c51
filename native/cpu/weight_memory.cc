#include "cpu/weight_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <mutex>
#include <string>

namespace slim {
namespace {

constexpr size_t kPage = size_t(2) << 20, kSlab = size_t(32) << 20, kLine = 64;

size_t roundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

/// Mapped memory, cut from its start.
struct Slab {
  uint8_t* data = nullptr;
  size_t size = 0, used = 0;

  ~Slab() {
    if (data) munmap(data, size);
  }
  bool map(size_t bytes) {
    void* mapped = mmap(nullptr, bytes + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) return false;
    const uintptr_t begin = uintptr_t(mapped), aligned = roundUp(begin, kPage);
    if (aligned > begin) munmap(mapped, aligned - begin);
    munmap(reinterpret_cast<void*>(aligned + bytes), begin + kPage - aligned);
    data = reinterpret_cast<uint8_t*>(aligned);
    size = bytes;
#if defined(MADV_HUGEPAGE)
    madvise(data, size, MADV_HUGEPAGE);  // a hint: without huge pages only the TLB misses are more
#endif
    return true;
  }
};

}  // namespace

Status allocateWeights(size_t bytes, std::shared_ptr<uint8_t>& out) {
  static std::mutex mutex;
  static std::weak_ptr<Slab> open;
  std::lock_guard lock(mutex);
  auto slab = open.lock();
  const size_t needed = roundUp(bytes, kLine);
  if (!slab || slab->size - slab->used < needed) {
    slab = std::make_shared<Slab>();
    if (!slab->map(std::max(kSlab, roundUp(needed, kPage))))
      return Status::error("SLIM_OUT_OF_MEMORY", "Cannot allocate " + std::to_string(needed) +
                                                     " bytes for weights in the kernels' order");
    open = slab;
  }
  out = std::shared_ptr<uint8_t>(slab, slab->data + slab->used);
  slab->used += needed;
  return Status::success();
}

}  // namespace slim
