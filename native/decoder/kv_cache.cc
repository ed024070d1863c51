#include "decoder/kv_cache.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <new>

#include "core/half.h"
#include "cpu/conversions.h"

namespace slim {
namespace {

constexpr std::align_val_t kPageAlignment{64};
size_t elementBytes(CacheDType dtype) {
  return dtype == CacheDType::F32 ? 4 : dtype == CacheDType::F16 ? 2 : 1;
}

template <typename Element>
void storeLane(const Element* from, size_t count, void* panel, size_t lane) {
  Element* to = static_cast<Element*>(panel) + lane;
  for (size_t d = 0; d < count; ++d) to[d * kKeyPanel] = from[d];
}

/// x ≈ scale · codes; the scale as float16, rounded up where needed so that no code exceeds 127.
uint16_t quantizeHead(const float* x, size_t count, int8_t* codes) {
  float largest = 0;
  for (size_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(x[i]));
  uint16_t scale = floatToHalf(largest / 127);
  const float rounded = halfToFloat(scale);
  const float inverse = rounded > 0 ? 1 / rounded : 0;
  for (size_t i = 0; i < count; ++i)
    codes[i] = int8_t(std::lrintf(std::clamp(x[i] * inverse, -127.0f, 127.0f)));
  return scale;
}

}  // namespace

struct KvCache::Page {
  explicit Page(size_t bytes) : data(static_cast<uint8_t*>(::operator new(bytes, kPageAlignment))) {}
  ~Page() { ::operator delete(data, kPageAlignment); }
  Page(const Page&) = delete;
  Page& operator=(const Page&) = delete;

  uint8_t* const data;
};

// Not filled: kernels mask the scores of keys beyond the last, and read no values there.
KvCache::PagePtr KvCache::makePage() const { return std::make_shared<Page>(pageBytes_); }

Status KvCache::make(const std::vector<const BlockSpec*>& blocks, size_t capacity, CacheDType dtype,
                     std::shared_ptr<KvCache>& out) {
  if (capacity == 0) return Status::invalidArgument("capacity", "at least one token", "0");
  auto cache = std::make_shared<KvCache>(capacity, dtype);
  const size_t element = elementBytes(dtype);
  for (const BlockSpec* spec : blocks) {
    BlockLayout layout;
    layout.headDim = spec->headDim;
    layout.offset = cache->pageBytes_;
    layout.valueOffset = kPagePositions * spec->headDim * element;
    layout.scaleOffset = layout.valueOffset + kPagePositions * paddedHead(spec->headDim) * element;
    layout.headBytes = layout.scaleOffset + (dtype == CacheDType::I8 ? 2 * kPagePositions * 2 : 0);
    cache->pageBytes_ += spec->kvHeads * layout.headBytes;
    cache->blocks_.push_back(layout);
  }
  out = std::move(cache);
  return Status::success();
}

void KvCache::reserve(size_t end) {
  for (size_t page = length() / kPagePositions; page * kPagePositions < end; ++page) {
    if (page == pages_.size()) {
      pages_.push_back(makePage());
    } else if (pages_[page].use_count() > 1) {
      PagePtr own = makePage();
      std::memcpy(own->data, pages_[page]->data, pageBytes_);
      pages_[page] = std::move(own);
    } else {
      // Whoever shared it has let go of it after its last read.
      std::atomic_thread_fence(std::memory_order_acquire);
    }
  }
}

KvSlab KvCache::slab(size_t block, size_t kvHead, size_t page) const {
  const BlockLayout& layout = blocks_[block];
  uint8_t* data = pages_[page]->data + layout.offset + kvHead * layout.headBytes;
  auto* scales = reinterpret_cast<uint16_t*>(data + layout.scaleOffset);
  return {data, data + layout.valueOffset, scales, scales + kPagePositions};
}

void KvCache::store(size_t block, size_t kvHead, size_t position, const float* key, const float* value) {
  const size_t headDim = blocks_[block].headDim, index = position % kPagePositions;
  const KvSlab slab = this->slab(block, kvHead, position / kPagePositions);
  const size_t element = elementBytes(dtype()), lane = index % kKeyPanel;
  uint8_t* panel = static_cast<uint8_t*>(slab.keys) + (index - lane) * headDim * element;
  uint8_t* row = static_cast<uint8_t*>(slab.values) + index * paddedHead(headDim) * element;
  constexpr size_t kChunk = 256;
  // Of padding, so that kernels may read whole vectors.
  std::memset(row + headDim * element, 0, (paddedHead(headDim) - headDim) * element);
  switch (dtype()) {
    case CacheDType::F32:
      storeLane(key, headDim, panel, lane);
      std::memcpy(row, value, headDim * element);
      return;
    case CacheDType::F16: {
      const Conversions& conversions = activeConversions();
      uint16_t halves[kChunk];
      for (size_t d = 0; d < headDim; d += kChunk) {
        const size_t count = std::min(kChunk, headDim - d);
        conversions.floatToHalf(key + d, count, halves);
        storeLane(halves, count, panel + d * kKeyPanel * element, lane);
      }
      conversions.floatToHalf(value, headDim, reinterpret_cast<uint16_t*>(row));
      return;
    }
    case CacheDType::I8: {
      std::vector<int8_t> codes(headDim);
      slab.keyScales[index] = quantizeHead(key, headDim, codes.data());
      storeLane(codes.data(), headDim, panel, lane);
      slab.valueScales[index] = quantizeHead(value, headDim, reinterpret_cast<int8_t*>(row));
      return;
    }
  }
}

void KvCache::dropPages(size_t length) { pages_.resize((length + kPagePositions - 1) / kPagePositions); }

void KvCache::sharePages(const SequenceCache& from, size_t length) {
  const auto& pages = static_cast<const KvCache&>(from).pages_;
  pages_ = std::vector<PagePtr>(pages.begin(),
                                pages.begin() + ptrdiff_t((length + kPagePositions - 1) / kPagePositions));
}

}  // namespace slim
