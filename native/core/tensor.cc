#include "core/tensor.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include "cpu/conversions.h"
#include "cpu/gguf_blocks.h"

namespace slim {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  size_t blockElements, blockBytes;
  /// Of the types that have no conversion of their own for every instruction set.
  void (*decodeBlock)(const uint8_t* block, float* to) = nullptr;
};

constexpr DTypeInfo kDTypes[] = {
    {DType::F32, "F32", 1, 4},
    {DType::F16, "F16", 1, 2},
    {DType::BF16, "BF16", 1, 2},
    {DType::I32, "I32", 1, 4},
    {DType::U8, "U8", 1, 1},
    {DType::Q8_0, "Q8_0", 32, 34},
    {DType::Q4_0, "Q4_0", 32, 18},
    {DType::Q4_1, "Q4_1", 32, 20},
    {DType::Q5_0, "Q5_0", 32, 22, decodeQ5_0},
    {DType::Q5_1, "Q5_1", 32, 24, decodeQ5_1},
    {DType::IQ4_NL, "IQ4_NL", 32, 18, decodeIq4Nl},
    {DType::Q2_0, "Q2_0", 64, 18, decodeQ2_0},
    {DType::Q2_K, "Q2_K", 256, 84, decodeQ2K},
    {DType::Q3_K, "Q3_K", 256, 110, decodeQ3K},
    {DType::Q4_K, "Q4_K", 256, 144, decodeQ4K},
    {DType::Q5_K, "Q5_K", 256, 176, decodeQ5K},
    {DType::Q6_K, "Q6_K", 256, 210, decodeQ6K},
    {DType::IQ4_XS, "IQ4_XS", 256, 136, decodeIq4Xs},
    {DType::TQ2_0, "TQ2_0", 256, 66, decodeTq2_0},
};

const DTypeInfo& info(DType dtype) { return kDTypes[size_t(dtype)]; }

// Block by block; a run may begin and end inside one.
void readBlocks(const DTypeInfo& type, const uint8_t* row, size_t start, size_t count, float* out) {
  const uint8_t* block = row + start / type.blockElements * type.blockBytes;
  float values[kMaxBlockElements];
  for (size_t skip = start % type.blockElements; count > 0; skip = 0, block += type.blockBytes) {
    const size_t n = std::min(count, type.blockElements - skip);
    if (n == type.blockElements) {
      type.decodeBlock(block, out);
    } else {
      type.decodeBlock(block, values);
      std::copy_n(values + skip, n, out);
    }
    out += n;
    count -= n;
  }
}

// An unlinked file in the directory; −1 with errno otherwise. File systems without O_TMPFILE say EOPNOTSUPP,
// kernels without it EISDIR.
int openSpillFile(const std::string& directory) {
  const int fd = ::open(directory.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
  if (fd >= 0 || (errno != EOPNOTSUPP && errno != EISDIR)) return fd;
  std::string path = directory + "/slimllm-spill-XXXXXX";
  const int named = mkostemp(path.data(), O_CLOEXEC);
  if (named >= 0) unlink(path.c_str());
  return named;
}

}  // namespace

std::string_view dtypeName(DType dtype) { return info(dtype).name; }

std::optional<DType> dtypeFromName(std::string_view name) {
  for (const auto& d : kDTypes)
    if (d.name == name) return d.dtype;
  return std::nullopt;
}

std::string dtypeNames() {
  std::string names;
  for (const auto& d : kDTypes) names.append(names.empty() ? "" : ", ").append(d.name);
  return names;
}

size_t dtypeBytes(DType dtype, size_t elements) {
  return elements / info(dtype).blockElements * info(dtype).blockBytes;
}

std::string describeShape(DType dtype, const std::vector<size_t>& shape) {
  std::string text(dtypeName(dtype));
  text += " [";
  for (size_t i = 0; i < shape.size(); ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

Status shapeBytes(DType dtype, const std::vector<size_t>& shape, size_t& out) {
  const size_t blockElements = info(dtype).blockElements;
  if (blockElements > 1 && (shape.empty() || shape.back() % blockElements != 0))
    return Status::invalidArgument("shape",
                                   "a last dimension that is a multiple of " + std::to_string(blockElements),
                                   describeShape(dtype, shape));
  size_t elements = 1, bytes = 0;
  bool fits = true;
  for (size_t d : shape) fits &= !__builtin_mul_overflow(elements, d, &elements);
  fits &= !__builtin_mul_overflow(elements / blockElements, info(dtype).blockBytes, &bytes);
  if (!fits || bytes > size_t(PTRDIFF_MAX))
    return Status::invalidArgument("shape", "a shape whose bytes can be counted in 63 bits",
                                   describeShape(dtype, shape));
  out = bytes;
  return Status::success();
}

size_t Tensor::rows() const {
  size_t rows = 1;
  for (size_t i = 0; i + 1 < shape_.size(); ++i) rows *= shape_[i];
  return rows;
}

std::shared_ptr<Tensor> Tensor::view(DType dtype, std::vector<size_t> shape, void* data,
                                     std::shared_ptr<void> owner) {
  auto tensor = std::make_shared<Tensor>();
  tensor->dtype_ = dtype;
  tensor->shape_ = std::move(shape);
  tensor->data_ = static_cast<uint8_t*>(data);
  tensor->owner_ = std::move(owner);
  return tensor;
}

Status Tensor::allocate(DType dtype, std::vector<size_t> shape, TensorPtr& out,
                        const std::string& spillDirectory) {
  size_t bytes;
  SLIM_RETURN_IF_ERROR(shapeBytes(dtype, shape, bytes));
  bytes = std::max<size_t>(bytes, 1);
  int fd = -1;
  if (!spillDirectory.empty()) {
    fd = openSpillFile(spillDirectory);
    // posix_fallocate reserves the blocks now: a full disk is an error here, not a SIGBUS later.
    const int failure = fd < 0 ? errno : posix_fallocate(fd, 0, off_t(bytes));
    if (failure != 0) {
      if (fd >= 0) close(fd);
      return Status::error(failure == ENOSPC ? "SLIM_NO_SPACE" : "SLIM_FILE_UNWRITABLE",
                           "Cannot reserve " + std::to_string(bytes) + " bytes in " + spillDirectory + ": " +
                               std::strerror(failure));
    }
  }
  void* address =
      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, fd, 0);
  if (fd >= 0) close(fd);
  if (address == MAP_FAILED)
    return Status::error("SLIM_OUT_OF_MEMORY", "Cannot allocate a tensor " + describeShape(dtype, shape) +
                                                   " of " + std::to_string(bytes) + " bytes");
  std::shared_ptr<void> owner(address, [bytes](void* p) { munmap(p, bytes); });
  out = view(dtype, std::move(shape), address, std::move(owner));
  if (spillDirectory.empty()) out->heapBytes_ = bytes;
  return Status::success();
}

void readRow(DType dtype, const uint8_t* row, size_t start, size_t count, float* out) {
  switch (dtype) {
    case DType::F32:
      std::memcpy(out, row + start * 4, count * 4);
      return;
    case DType::F16:
      return activeConversions().halfToFloat(row + start * 2, count, out);
    case DType::BF16:
      return activeConversions().bfloatToFloat(row + start * 2, count, out);
    case DType::I32:
      for (size_t i = 0; i < count; ++i) out[i] = float(reinterpret_cast<const int32_t*>(row)[start + i]);
      return;
    case DType::U8:
      for (size_t i = 0; i < count; ++i) out[i] = row[start + i];
      return;
    case DType::Q8_0:
      return activeConversions().q8_0ToFloat(row + dtypeBytes(dtype, start), count, out);
    case DType::Q4_0:
      return activeConversions().q4_0ToFloat(row + dtypeBytes(dtype, start), count, out);
    case DType::Q4_1:
      return activeConversions().q4_1ToFloat(row + dtypeBytes(dtype, start), count, out);
    default:
      return readBlocks(info(dtype), row, start, count, out);
  }
}

Status convert(const Tensor& source, DType dtype, ThreadPool& pool, const CancelFlag& cancelled,
               TensorPtr& out, const std::string& spillDirectory) {
  if (!isFloat(dtype))
    return Status::invalidArgument("dtype", "F32, F16 or BF16", std::string(dtypeName(dtype)));
  TensorPtr result;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(dtype, source.shape(), result, spillDirectory));
  const size_t cols = source.cols();
  pool.parallelFor(source.rows(), [&](size_t r, int) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    if (dtype == DType::F32)
      return readRow(source.dtype(), source.row(r), 0, cols, result->as<float>() + r * cols);
    constexpr size_t kChunk = 1024;
    float values[kChunk];
    for (size_t start = 0; start < cols; start += kChunk) {
      const size_t n = std::min(kChunk, cols - start);
      readRow(source.dtype(), source.row(r), start, n, values);
      uint16_t* to = result->as<uint16_t>() + r * cols + start;
      const auto round =
          dtype == DType::F16 ? activeConversions().floatToHalf : activeConversions().floatToBfloat;
      round(values, n, to);
    }
  });
  if (cancelled.load()) return Status::aborted();
  out = std::move(result);
  return Status::success();
}

Status findNonFinite(const Tensor& tensor, ThreadPool& pool, const CancelFlag& cancelled, size_t& out) {
  const size_t cols = tensor.cols();
  std::atomic<size_t> first{tensor.elements()};
  pool.parallelFor(tensor.rows(), [&](size_t r, int) {
    if (cancelled.load(std::memory_order_relaxed)) return;
    constexpr size_t kChunk = 1024;
    float values[kChunk];
    for (size_t start = 0; start < cols; start += kChunk) {
      const size_t n = std::min(kChunk, cols - start);
      readRow(tensor.dtype(), tensor.row(r), start, n, values);
      for (size_t i = 0; i < n; ++i) {
        if (std::isfinite(values[i])) continue;
        const size_t index = r * cols + start + i;
        for (size_t seen = first.load(); index < seen && !first.compare_exchange_weak(seen, index);) {
        }
        return;
      }
    }
  });
  if (cancelled.load()) return Status::aborted();
  out = first.load();
  return Status::success();
}

Status unpermuteRotaryRows(const Tensor& source, size_t heads, ThreadPool& pool, TensorPtr& out) {
  const size_t rows = source.rows(), rowBytes = dtypeBytes(source.dtype(), source.cols());
  if (heads == 0 || rows % (2 * heads) != 0)
    return Status::invalidArgument("heads", "a divisor of half the " + std::to_string(rows) + " rows",
                                   std::to_string(heads));
  TensorPtr result;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(source.dtype(), source.shape(), result));
  const size_t half = rows / heads / 2;
  pool.parallelFor(heads, [&](size_t h, int) {
    for (size_t i = 0; i < half; ++i)
      for (size_t j = 0; j < 2; ++j)
        std::memcpy(result->data() + ((h * 2 + j) * half + i) * rowBytes, source.row((h * half + i) * 2 + j),
                    rowBytes);
  });
  out = std::move(result);
  return Status::success();
}

}  // namespace slim
