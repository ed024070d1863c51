// A linear layer's weight in groups of mixed bit widths, in the canonical layout of docs/format.md.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "core/tensor.h"
#include "cpu/gemm.h"
#include "quant/groups.h"

namespace slim {

/// What a quantizer decides: everything of a packed matrix before packing.
struct GroupCodes {
  size_t rows = 0, cols = 0, groupSize = 0;
  std::vector<uint8_t> groupBits;  // [groups], 1 … 8
  std::vector<uint8_t> codes;      // [rows, cols]; of 1-bit groups 1 for +, 0 for −
  std::vector<uint16_t> scales;    // [groups, rows] float16
  std::vector<uint8_t> zeros;  // [groups, rows] integer zero points, 0 … 2^bits − 1 (unused by 1-bit groups)
  std::vector<uint16_t> means;  // [groups, rows] float16, of 1-bit groups alone
};

/// Bytes at which a group's codes, and its zero points or means, begin [groups + 1].
struct PackedOffsets {
  std::vector<size_t> codes, zeros;
  PackedOffsets() = default;
  PackedOffsets(const Groups& groups, size_t rows, const uint8_t* groupBits);
};

/// Canonical layout. The groups lie one after the other in qweight; a group's rows lie one after the other; a
/// row's codes are a little-endian bit string (code j in bits [j·b, (j+1)·b)), padded to a whole byte.
/// qzeros: group after group; for b ≥ 2 the rows' zero points as such a bit string (b bits each), padded to a
/// byte; for b = 1 the rows' means as float16. weight = scale · (code − zero), 1 bit: mean + scale · (code ?
/// 1 : −1).
class PackedMatrix final : public RowReader {
 public:
  static Status pack(const GroupCodes& codes, std::shared_ptr<PackedMatrix>& out);
  /// Takes parts read from a file; they are checked against each other.
  static Status fromParts(size_t rows, size_t cols, size_t groupSize, TensorPtr qweight, TensorPtr groupBits,
                          TensorPtr scales, TensorPtr qzeros, std::shared_ptr<PackedMatrix>& out);

  size_t rows() const { return rows_; }
  size_t cols() const { return cols_; }
  size_t groupSize() const { return groupSize_; }
  const TensorPtr& qweight() const { return qweight_; }      // U8 [bytes]
  const TensorPtr& groupBits() const { return groupBits_; }  // U8 [groups]
  const TensorPtr& scales() const { return scales_; }        // F16 [groups, rows]
  const TensorPtr& qzeros() const { return qzeros_; }        // U8 [bytes]
  const std::vector<size_t>& codeOffsets() const { return offsets_.codes; }
  const std::vector<size_t>& zeroOffsets() const { return offsets_.zeros; }
  size_t storedBytes() const;
  size_t heapBytes() const;  // as Tensor::heapBytes

  void read(size_t row, size_t start, size_t count, float* out) const override;

  /// What a row of a group is decoded with: a zero point or, of 1-bit groups, a mean.
  struct RowOfGroup {
    uint16_t scale, mean;  // float16
    uint8_t zero;
  };
  RowOfGroup rowOfGroup(size_t group, size_t row) const;
  /// Codes [start, start + count) of a row of a group, one a byte; start is a multiple of 8.
  void readCodes(size_t group, size_t row, size_t start, size_t count, uint8_t* out) const;

 private:
  const uint8_t* codeString(size_t group, size_t row) const;

  size_t rows_ = 0, cols_ = 0, groupSize_ = 0;
  TensorPtr qweight_, groupBits_, scales_, qzeros_;
  PackedOffsets offsets_;
};

}  // namespace slim
