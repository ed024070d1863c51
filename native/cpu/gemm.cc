#include "cpu/gemm.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

#include "cpu/features.h"
#include "cpu/gemm_kernels.h"

namespace slim {

const GemmKernels& activeGemmKernels() {
  switch (activeInstructionSet()) {
#if defined(__x86_64__)
    case InstructionSet::Avx512:
      return kAvx512Gemm;
    case InstructionSet::Avx2:
      return kAvx2Gemm;
#endif
    default:
      return kPortableGemm;
  }
}

namespace {

// Blocks (Goto and van de Geijn, 2008). A pass multiplies at most kBlockRows × kBlockDepth of A by kBlockCols
// × kBlockDepth of B, both packed once and shared by all threads. A panel of A (12 × 384 floats: 18 KB) stays
// in the first-level cache while a tile's panels of B stream from the second-level cache.
constexpr size_t kBlockDepth = 384, kBlockRows = 3072, kBlockCols = 4096;
constexpr size_t kMaxFewRows = 8;  // of A, for gemmFewRows
constexpr size_t kDepthUnit = 32;  // GGUF blocks start at multiples of 32

size_t ceilDivide(size_t a, size_t b) { return (a + b - 1) / b; }
size_t roundUp(size_t a, size_t b) { return ceilDivide(a, b) * b; }

/// Memory for packed panels. Kept between products: fresh pages would cost more than packing into them.
class Workspace {
 public:
  static std::unique_ptr<Workspace> take(size_t floats) {
    std::unique_ptr<Workspace> workspace;
    {
      std::lock_guard lock(pool().mutex);
      if (!pool().free.empty()) {
        workspace = std::move(pool().free.back());
        pool().free.pop_back();
      }
    }
    if (!workspace) workspace.reset(new Workspace());
    workspace->reserve(floats);
    return workspace;
  }
  static void giveBack(std::unique_ptr<Workspace> workspace) {
    std::lock_guard lock(pool().mutex);
    pool().free.push_back(std::move(workspace));
  }
  ~Workspace() { ::operator delete(data_, std::align_val_t(kAlignment)); }

  float* data() const { return data_; }

 private:
  struct Pool {
    std::mutex mutex;
    std::vector<std::unique_ptr<Workspace>> free;
  };
  // Never destroyed: a product may still run on another thread while the process exits.
  static Pool& pool() {
    static Pool* pool = new Pool();
    return *pool;
  }

  void reserve(size_t floats) {
    if (floats <= capacity_) return;
    ::operator delete(data_, std::align_val_t(kAlignment));
    capacity_ = 0;
    data_ = nullptr;
    const size_t bytes = roundUp(floats * sizeof(float), kAlignment);
    data_ = static_cast<float*>(::operator new(bytes, std::align_val_t(kAlignment)));
    capacity_ = bytes / sizeof(float);
#if defined(MADV_HUGEPAGE)
    madvise(data_, bytes, MADV_HUGEPAGE);  // a hint: without huge pages only the TLB misses are more
#endif
  }

  static constexpr size_t kAlignment = size_t(2) << 20;
  float* data_ = nullptr;
  size_t capacity_ = 0;
};

struct WorkspaceLease {
  explicit WorkspaceLease(size_t floats) : workspace(Workspace::take(floats)) {}
  ~WorkspaceLease() { Workspace::giveBack(std::move(workspace)); }
  std::unique_ptr<Workspace> workspace;
};

/// Packs rows [row, row + rows) × [start, start + depth) of an operand into one panel of `width` rows.
void packPanel(const GemmKernels& kernels, const Operand& o, size_t row, size_t rows, size_t start,
               size_t depth, size_t width, float* panel) {
  if (o.layout == Operand::Layout::ColumnMajor)
    return kernels.packColumns(static_cast<const float*>(o.data) + start * o.stride + row, o.stride, rows,
                               depth, width, panel);
  const bool inPlace = o.layout == Operand::Layout::RowMajor && o.dtype == DType::F32;
  constexpr size_t kMaxLanes = 16;
  alignas(64) float decoded[kMaxLanes * kBlockDepth];  // a few rows, in the first-level cache
  for (size_t lane = 0; lane < width; lane += kernels.packLanes) {
    const size_t lanes = std::min(kernels.packLanes, width - lane),
                 count = std::min(lanes, rows - std::min(lane, rows));
    const float* source = decoded;
    size_t stride = depth;
    if (inPlace) {
      stride = o.stride;
      source = static_cast<const float*>(o.data) + (row + lane) * stride + start;
    } else {
      for (size_t r = 0; r < count; ++r) readOperandRow(o, row + lane + r, start, depth, decoded + r * depth);
    }
    kernels.packRows(source, stride, count, depth, lanes, width, panel + lane);
  }
}

/// Sizes of a tile of C that give every thread several tiles, when the product is large enough for that.
struct Tiling {
  size_t rows, cols;
  Tiling(const GemmKernels& kernels, size_t m, size_t n, size_t threads) {
    rows = kernels.tileRows;
    cols = kernels.tileCols;
    while (threads > 1 && ceilDivide(m, rows) * ceilDivide(n, cols) < 6 * threads) {
      if (cols > 2 * kernels.nr && cols * kernels.mr >= rows * kernels.nr)
        cols = roundUp(cols / 2, kernels.nr);
      else if (rows > 2 * kernels.mr)
        rows = roundUp(rows / 2, kernels.mr);
      else
        break;
    }
  }
};

void gemmBlocked(ThreadPool& pool, const GemmKernels& kernels, size_t m, size_t n, size_t k, const Operand& a,
                 const Operand& b, float* c, size_t ldc, const GemmOptions& options) {
  const size_t mr = kernels.mr, nr = kernels.nr;
  // Depths as equal as multiples of 32 allow: no thin last block.
  const size_t depth = roundUp(ceilDivide(k, ceilDivide(k, kBlockDepth)), kDepthUnit);
  const size_t blockRows = std::min(roundUp(m, mr), kBlockRows),
               blockCols = std::min(roundUp(n, nr), kBlockCols);
  const size_t floatsB = roundUp(blockCols * depth, 1024);
  WorkspaceLease lease(floatsB + blockRows * depth);
  float *packedB = lease.workspace->data(), *packedA = packedB + floatsB;

  // A packing task takes some 32 KB of panels.
  const size_t groupA = std::max<size_t>(1, 8192 / (depth * mr)),
               groupB = std::max<size_t>(1, 8192 / (depth * nr));
  for (size_t j0 = 0; j0 < n; j0 += blockCols) {
    const size_t cols = std::min(blockCols, n - j0), panelsB = ceilDivide(cols, nr);
    for (size_t p0 = 0; p0 < k; p0 += depth) {
      const size_t kb = std::min(depth, k - p0);
      const bool accumulate = options.accumulate || p0 > 0;
      for (size_t i0 = 0; i0 < m; i0 += blockRows) {
        const size_t rows = std::min(blockRows, m - i0), panelsA = ceilDivide(rows, mr);
        if (options.upperOnly && i0 >= j0 + cols) break;
        const size_t tasksB = i0 == 0 ? ceilDivide(panelsB, groupB) : 0, tasksA = ceilDivide(panelsA, groupA);
        pool.parallelFor(tasksB + tasksA, [&](size_t task, int) {
          if (task < tasksB) {
            for (size_t q = task * groupB; q < std::min(panelsB, (task + 1) * groupB); ++q)
              packPanel(kernels, b, j0 + q * nr, std::min(nr, cols - q * nr), p0, kb, nr,
                        packedB + q * nr * kb);
          } else {
            for (size_t q = (task - tasksB) * groupA; q < std::min(panelsA, (task - tasksB + 1) * groupA);
                 ++q)
              packPanel(kernels, a, i0 + q * mr, std::min(mr, rows - q * mr), p0, kb, mr,
                        packedA + q * mr * kb);
          }
        });

        const Tiling tile(kernels, rows, cols, size_t(pool.threads()));
        const size_t tilesDown = ceilDivide(rows, tile.rows), tilesAcross = ceilDivide(cols, tile.cols);
        pool.parallelFor(tilesDown * tilesAcross, [&](size_t task, int) {
          // Down first: consecutive tasks share panels of B, the larger part of what a tile reads.
          const size_t top = task % tilesDown * tile.rows, left = task / tilesDown * tile.cols;
          const size_t bottom = std::min(rows, top + tile.rows), right = std::min(cols, left + tile.cols);
          for (size_t i = top; i < bottom; i += mr) {
            for (size_t j = left; j < right; j += nr) {
              if (options.upperOnly && i0 + i >= j0 + j + nr) continue;
              kernels.micro[std::min(mr, rows - i) - 1](kb, packedA + i * kb, packedB + j * kb,
                                                        c + (i0 + i) * ldc + j0 + j, ldc,
                                                        std::min(nr, cols - j), options.alpha, accumulate);
            }
          }
        });
      }
    }
  }
}

// Few rows of A, as when one token is decoded: packing B would cost more than the product, so that every row
// of B is read once, for a handful of dot products.
void gemmFewRows(ThreadPool& pool, const GemmKernels& kernels, size_t m, size_t n, size_t k, const Operand& a,
                 const Operand& b, float* c, size_t ldc, const GemmOptions& options) {
  const bool readA = a.layout != Operand::Layout::RowMajor || a.dtype != DType::F32;
  const bool readB = b.layout != Operand::Layout::RowMajor || !isFloat(b.dtype);
  const DotKernels& dot = readB || b.dtype == DType::F32 ? kernels.dot
                          : b.dtype == DType::F16        ? kernels.dotHalf
                                                         : kernels.dotBfloat;
  const size_t elementBytes = readB ? sizeof(float) : dtypeBytes(b.dtype, 1);
  WorkspaceLease lease(readA ? m * k : 0);
  const float* rowsA = static_cast<const float*>(a.data);
  size_t strideA = a.stride;
  if (readA) {
    strideA = k;
    rowsA = lease.workspace->data();
    for (size_t i = 0; i < m; ++i) readOperandRow(a, i, 0, k, lease.workspace->data() + i * k);
  }
  constexpr size_t kChunk = 2048;
  // A task reads at least 64 KB of B.
  const size_t taskRows = kDotRows * std::max<size_t>(1, 16384 / (kDotRows * k));
  pool.parallelFor(ceilDivide(n, taskRows), [&](size_t task, int) {
    float decoded[kDotRows * kChunk];
    for (size_t j = task * taskRows; j < std::min(n, (task + 1) * taskRows); j += kDotRows) {
      const size_t cols = std::min(kDotRows, n - j);
      float sums[kMaxFewRows][kDotRows] = {};
      for (size_t p = 0; p < k; p += kChunk) {
        const size_t count = std::min(kChunk, k - p);
        const void* rowsB = decoded;
        if (readB) {
          for (size_t q = 0; q < cols; ++q) readOperandRow(b, j + q, p, count, decoded + q * kChunk);
        } else {
          rowsB = static_cast<const uint8_t*>(b.data) + (j * b.stride + p) * elementBytes;
        }
        for (size_t i = 0; i < m; i += kDotRows)
          dot[std::min(kDotRows, m - i) - 1][cols - 1](count, rowsA + i * strideA + p, strideA, rowsB,
                                                       readB ? kChunk : b.stride, sums[i]);
      }
      for (size_t i = 0; i < m; ++i)
        for (size_t q = 0; q < cols; ++q) {
          float& out = c[i * ldc + j + q];
          out = options.alpha * sums[i][q] + (options.accumulate ? out : 0.0f);
        }
    }
  });
}

}  // namespace

void gemm(ThreadPool& pool, size_t m, size_t n, size_t k, const Operand& a, const Operand& b, float* c,
          size_t ldc, const GemmOptions& options) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (size_t i = 0; i < m && !options.accumulate; ++i)
      for (size_t j = options.upperOnly ? i : 0; j < n; ++j) c[i * ldc + j] = 0.0f;
    return;
  }
  const GemmKernels& kernels = activeGemmKernels();
  if (m <= kMaxFewRows && b.layout != Operand::Layout::ColumnMajor)
    return gemmFewRows(pool, kernels, m, n, k, a, b, c, ldc, options);
  gemmBlocked(pool, kernels, m, n, k, a, b, c, ldc, options);
}

Status multiply(const Tensor& x, const Operand& b, size_t columns, ThreadPool& pool,
                const CancelFlag& cancelled, Tensor& c) {
  // B is packed anew for every slice. The last one is not cut off: few rows would be summed in another order.
  constexpr size_t kSlice = 1024;
  Operand slice = Operand::tensor(x);
  for (size_t row = 0, rows; row < x.rows(); row += rows) {
    if (cancelled.load()) return Status::aborted();
    rows = x.rows() - row < 2 * kSlice ? x.rows() - row : kSlice;
    slice.data = x.row(row);
    gemm(pool, rows, columns, x.cols(), slice, b, c.as<float>() + row * columns, columns);
  }
  return Status::success();
}

}  // namespace slim
