// Shadow cells of a piece of memory, made when first touched: one a 32-bit word, and in a page where an
// access smaller than a word was seen one a byte, so that neighbours in a word are not taken for each other.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

namespace slim::emulator {

template <class Cell>
class PagedCells {
 public:
  explicit PagedCells(uint64_t bytes = 0) : pages_((bytes + kPageBytes - 1) / kPageBytes) {}

  // Calls visit for each cell of an aligned access of 1 to 16 bytes, until one returns false.
  template <class Visit>
  bool visit(uint64_t offset, uint32_t bytes, Visit visit) {
    std::unique_ptr<Page>& slot = pages_[offset / kPageBytes];
    if (!slot) slot = std::make_unique<Page>();
    Page& page = *slot;
    if (bytes < 4 && page.shift != 0) splitToBytes(page);
    const uint64_t first = offset % kPageBytes >> page.shift;
    const uint32_t cells = bytes >> page.shift;
    for (uint32_t i = 0; i < cells; i++) {
      if (!visit(page.cells[first + i])) return false;
    }
    return true;
  }

  void clear() {
    for (auto& page : pages_) {
      if (page) page->cells.assign(page->cells.size(), Cell{});
    }
  }

 private:
  static constexpr uint64_t kPageBytes = 4096;
  struct Page {
    uint32_t shift = 2;
    std::vector<Cell> cells = std::vector<Cell>(kPageBytes / 4);
  };

  static void splitToBytes(Page& page) {
    std::vector<Cell> cells(kPageBytes);
    for (uint64_t i = 0; i < kPageBytes; i++) cells[i] = page.cells[i / 4];
    page.cells = std::move(cells);
    page.shift = 0;
  }

  std::vector<std::unique_ptr<Page>> pages_;
};

}  // namespace slim::emulator
