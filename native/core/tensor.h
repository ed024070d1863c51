// A dense row-major tensor: a dtype, a shape, and bytes that it owns, or views in a mapped file.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"

namespace slim {

/// From Q8_0 on: GGUF's blocks of 32 to 256 elements along a row; convert() turns them into floats.
enum class DType {
  F32,
  F16,
  BF16,
  I32,
  U8,
  Q8_0,
  Q4_0,
  Q4_1,
  Q5_0,
  Q5_1,
  IQ4_NL,
  Q2_0,
  Q2_K,
  Q3_K,
  Q4_K,
  Q5_K,
  Q6_K,
  IQ4_XS,
  TQ2_0
};

std::string_view dtypeName(DType dtype);
std::optional<DType> dtypeFromName(std::string_view name);
/// "F32, F16, …": all of them, for errors.
std::string dtypeNames();
/// Bytes of a run of `elements` (whole blocks).
size_t dtypeBytes(DType dtype, size_t elements);
inline bool isFloat(DType d) { return d == DType::F32 || d == DType::F16 || d == DType::BF16; }

/// Bytes of a shape; an error that names it when they do not fit, or when its rows are not whole
/// blocks.
Status shapeBytes(DType dtype, const std::vector<size_t>& shape, size_t& out);
/// "F32 [2, 3]"
std::string describeShape(DType dtype, const std::vector<size_t>& shape);

class Tensor {
 public:
  /// Zero-filled. With a spill directory, backed by an unlinked file there: the kernel may page it out.
  static Status allocate(DType dtype, std::vector<size_t> shape, std::shared_ptr<Tensor>& out,
                         const std::string& spillDirectory = "");
  /// A view of bytes that `owner` keeps alive.
  static std::shared_ptr<Tensor> view(DType dtype, std::vector<size_t> shape, void* data,
                                      std::shared_ptr<void> owner);

  DType dtype() const { return dtype_; }
  const std::vector<size_t>& shape() const { return shape_; }
  /// Product of all dimensions but the last (1 for a scalar or vector), and the last dimension.
  size_t rows() const;
  size_t cols() const { return shape_.empty() ? 1 : shape_.back(); }
  size_t elements() const { return rows() * cols(); }
  size_t bytes() const { return dtypeBytes(dtype_, elements()); }
  /// Bytes of anonymous memory that the tensor owns: none of a view or a spilled tensor.
  size_t heapBytes() const { return heapBytes_; }
  uint8_t* data() const { return data_; }
  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  const uint8_t* row(size_t r) const { return data_ + r * dtypeBytes(dtype_, cols()); }

 private:
  DType dtype_ = DType::F32;
  std::vector<size_t> shape_;
  uint8_t* data_ = nullptr;
  size_t heapBytes_ = 0;
  std::shared_ptr<void> owner_;
};

inline std::string describeShape(const Tensor& tensor) {
  return describeShape(tensor.dtype(), tensor.shape());
}

using TensorPtr = std::shared_ptr<Tensor>;

/// Elements [start, start + count) of a row stored as `dtype` at `row`, as float32. For GGUF's blocks `start`
/// is a multiple of 32.
void readRow(DType dtype, const uint8_t* row, size_t start, size_t count, float* out);

/// The same values in another float dtype (round to nearest even). `dtype` must be F32, F16 or BF16. Spilled
/// as by Tensor::allocate.
Status convert(const Tensor& source, DType dtype, ThreadPool& pool, const CancelFlag& cancelled,
               TensorPtr& out, const std::string& spillDirectory = "");

/// Index of the first NaN or infinity, or `elements()` when all are finite. Floats and blocks.
Status findNonFinite(const Tensor& tensor, ThreadPool& pool, const CancelFlag& cancelled, size_t& out);

/// Undoes llama.cpp's interleaved-rotary row order of q and k: [heads, half, 2, cols] → [heads, 2, half,
/// cols].
Status unpermuteRotaryRows(const Tensor& source, size_t heads, ThreadPool& pool, TensorPtr& out);

}  // namespace slim
