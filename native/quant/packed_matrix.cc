#include "quant/packed_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "core/half.h"
#include "quant/packed_decode.h"

namespace slim {
namespace {

size_t bitStringBytes(size_t count, size_t bits) { return (count * bits + 7) / 8; }

size_t groupCodeBytes(const Groups& groups, size_t group, size_t rows, size_t bits) {
  return rows * bitStringBytes(groups.width(group), bits);
}

size_t groupZeroBytes(size_t rows, size_t bits) { return bits == 1 ? rows * 2 : bitStringBytes(rows, bits); }

// Number `index` of a little-endian bit string of b-bit numbers.
unsigned bitsAt(const uint8_t* string, size_t index, size_t bits) {
  const size_t bit = index * bits, shift = bit % 8;
  unsigned word = string[bit / 8];
  if (shift + bits > 8) word |= unsigned(string[bit / 8 + 1]) << 8;
  return (word >> shift) & ((1u << bits) - 1);
}

void writeBits(uint8_t* string, const uint8_t* values, size_t count, size_t bits) {
  uint64_t word = 0;
  size_t held = 0;
  for (size_t i = 0; i < count; ++i) {
    word |= uint64_t(values[i]) << held;
    for (held += bits; held >= 8; held -= 8, word >>= 8) *string++ = uint8_t(word);
  }
  if (held > 0) *string = uint8_t(word);
}

// Codes [start, start + count) of a row's bit string as weights.
void decodeRow(const uint8_t* string, size_t bits, size_t start, size_t count, float scale, float offset,
               DecodeEights eights, float* out) {
  const auto one = [&](size_t j) {
    return decodeWeight(unsigned(bits), bitsAt(string, j, bits), scale, offset);
  };
  size_t j = start;
  const size_t end = start + count;
  for (; j < end && j % 8 != 0; ++j) *out++ = one(j);
  const size_t whole = (end - j) / 8;
  eights(string + j / 8 * bits, whole, scale, offset, out);
  out += whole * 8;
  for (j += whole * 8; j < end; ++j) *out++ = one(j);
}

Status mismatch(const char* name, const std::string& expected, const std::string& received) {
  Status status = Status::error("SLIM_TENSOR_SHAPE", std::string("Expected ") + expected + " for " + name +
                                                         " but received " + received);
  status.parameter = name;
  status.expected = expected;
  status.received = received;
  return status;
}

Status checkDType(const char* name, const Tensor& tensor, DType dtype) {
  if (tensor.dtype() == dtype) return Status::success();
  Status status = Status::error("SLIM_TENSOR_DTYPE",
                                std::string("Expected ") + std::string(dtypeName(dtype)) + " for " + name +
                                    " but received " + std::string(dtypeName(tensor.dtype())));
  status.parameter = name;
  return status;
}

Status checkBytes(const char* name, const Tensor& tensor, size_t bytes) {
  if (tensor.bytes() == bytes) return Status::success();
  return mismatch(name, std::to_string(bytes) + " bytes (by rows, groups and bits)",
                  std::to_string(tensor.bytes()));
}

}  // namespace

PackedOffsets::PackedOffsets(const Groups& groups, size_t rows, const uint8_t* groupBits)
    : codes(1, 0), zeros(1, 0) {
  for (size_t g = 0; g < groups.count(); ++g) {
    codes.push_back(codes[g] + groupCodeBytes(groups, g, rows, groupBits[g]));
    zeros.push_back(zeros[g] + groupZeroBytes(rows, groupBits[g]));
  }
}

Status PackedMatrix::fromParts(size_t rows, size_t cols, size_t groupSize, TensorPtr qweight,
                               TensorPtr groupBits, TensorPtr scales, TensorPtr qzeros,
                               std::shared_ptr<PackedMatrix>& out) {
  constexpr size_t kMost = size_t(1) << 28;  // rows · cols · bits stays far below 2^64
  const std::pair<const char*, size_t> sizes[] = {{"rows", rows}, {"cols", cols}, {"groupSize", groupSize}};
  for (const auto& [name, size] : sizes)
    if (size == 0 || size > kMost)
      return Status::invalidArgument(name, "a number from 1 to " + std::to_string(kMost),
                                     std::to_string(size));
  SLIM_RETURN_IF_ERROR(checkDType("qweight", *qweight, DType::U8));
  SLIM_RETURN_IF_ERROR(checkDType("group_bits", *groupBits, DType::U8));
  SLIM_RETURN_IF_ERROR(checkDType("scales", *scales, DType::F16));
  SLIM_RETURN_IF_ERROR(checkDType("qzeros", *qzeros, DType::U8));

  const Groups groups{cols, groupSize};
  const size_t count = groups.count();
  SLIM_RETURN_IF_ERROR(checkBytes("group_bits", *groupBits, count));
  SLIM_RETURN_IF_ERROR(checkBytes("scales", *scales, count * rows * 2));
  for (size_t g = 0; g < count; ++g) {
    const size_t bits = groupBits->data()[g];
    if (bits < 1 || bits > 8)
      return Status::invalidArgument("group_bits[" + std::to_string(g) + "]", "1 to 8 bits",
                                     std::to_string(bits));
  }
  auto matrix = std::make_shared<PackedMatrix>();
  const PackedOffsets& offsets = matrix->offsets_ = PackedOffsets(groups, rows, groupBits->data());
  SLIM_RETURN_IF_ERROR(checkBytes("qweight", *qweight, offsets.codes[count]));
  SLIM_RETURN_IF_ERROR(checkBytes("qzeros", *qzeros, offsets.zeros[count]));

  const auto nonFinite = [](const char* name) {
    Status status =
        Status::error("SLIM_TENSOR_NON_FINITE", std::string(name) + " holds a NaN or an infinity");
    status.parameter = name;
    return status;
  };
  const auto isFinite = [](const uint8_t* halves, size_t n) {
    for (size_t i = 0; i < n; ++i)
      if ((halves[2 * i + 1] & 0x7c) == 0x7c) return false;
    return true;
  };
  if (!isFinite(scales->data(), count * rows)) return nonFinite("scales");
  for (size_t g = 0; g < count; ++g)
    if (groupBits->data()[g] == 1 && !isFinite(qzeros->data() + offsets.zeros[g], rows))
      return nonFinite("qzeros");

  matrix->rows_ = rows;
  matrix->cols_ = cols;
  matrix->groupSize_ = groupSize;
  matrix->qweight_ = std::move(qweight);
  matrix->groupBits_ = std::move(groupBits);
  matrix->scales_ = std::move(scales);
  matrix->qzeros_ = std::move(qzeros);
  out = std::move(matrix);
  return Status::success();
}

Status PackedMatrix::pack(const GroupCodes& codes, std::shared_ptr<PackedMatrix>& out) {
  const Groups groups{codes.cols, codes.groupSize};
  const size_t rows = codes.rows, count = groups.count();
  const PackedOffsets offsets(groups, rows, codes.groupBits.data());
  TensorPtr qweight, groupBits, scales, qzeros;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::U8, {offsets.codes[count]}, qweight));
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::U8, {count}, groupBits));
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F16, {count, rows}, scales));
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::U8, {offsets.zeros[count]}, qzeros));
  std::copy_n(codes.groupBits.data(), count, groupBits->data());
  std::copy_n(codes.scales.data(), count * rows, scales->as<uint16_t>());
  uint8_t *codesOut = qweight->data(), *zerosOut = qzeros->data();
  for (size_t g = 0; g < count; ++g) {
    const size_t bits = codes.groupBits[g], width = groups.width(g);
    for (size_t r = 0; r < rows; ++r, codesOut += bitStringBytes(width, bits))
      writeBits(codesOut, codes.codes.data() + r * codes.cols + groups.begin(g), width, bits);
    if (bits == 1) {
      std::memcpy(zerosOut, codes.means.data() + g * rows, rows * 2);
    } else {
      writeBits(zerosOut, codes.zeros.data() + g * rows, rows, bits);
    }
    zerosOut += groupZeroBytes(rows, bits);
  }
  return fromParts(rows, codes.cols, codes.groupSize, qweight, groupBits, scales, qzeros, out);
}

size_t PackedMatrix::storedBytes() const {
  return qweight_->bytes() + groupBits_->bytes() + scales_->bytes() + qzeros_->bytes();
}

size_t PackedMatrix::heapBytes() const {
  return qweight_->heapBytes() + groupBits_->heapBytes() + scales_->heapBytes() + qzeros_->heapBytes();
}

const uint8_t* PackedMatrix::codeString(size_t group, size_t row) const {
  const size_t bytes = bitStringBytes(Groups{cols_, groupSize_}.width(group), groupBits_->data()[group]);
  return qweight_->data() + offsets_.codes[group] + row * bytes;
}

PackedMatrix::RowOfGroup PackedMatrix::rowOfGroup(size_t group, size_t row) const {
  const size_t bits = groupBits_->data()[group];
  const uint8_t* zeros = qzeros_->data() + offsets_.zeros[group];
  RowOfGroup result{};
  std::memcpy(&result.scale, scales_->data() + (group * rows_ + row) * 2, 2);
  if (bits == 1)
    std::memcpy(&result.mean, zeros + row * 2, 2);
  else
    result.zero = uint8_t(bitsAt(zeros, row, bits));
  return result;
}

void PackedMatrix::readCodes(size_t group, size_t row, size_t start, size_t count, uint8_t* out) const {
  const size_t bits = groupBits_->data()[group];
  const uint8_t* string = codeString(group, row);
  size_t j = start;
  const unsigned mask = (1u << bits) - 1;
  for (const uint8_t* eight = string + start / 8 * bits; j + 8 <= start + count; j += 8, eight += bits) {
    uint64_t word = 0;
    for (size_t i = 0; i < bits; ++i) word |= uint64_t(eight[i]) << (8 * i);
    for (size_t i = 0; i < 8; ++i, word >>= bits) *out++ = uint8_t(word & mask);
  }
  for (; j < start + count; ++j) *out++ = uint8_t(bitsAt(string, j, bits));
}

void PackedMatrix::read(size_t row, size_t start, size_t count, float* out) const {
  const Groups groups{cols_, groupSize_};
  const DecodeKernels& kernels = decodeKernels();
  for (size_t column = start; column < start + count;) {
    const size_t g = column / groupSize_, begin = groups.begin(g), bits = groupBits_->data()[g];
    const size_t n = std::min(groups.end(g), start + count) - column;
    const uint8_t* string = codeString(g, row);
    const uint8_t* zeros = qzeros_->data() + offsets_.zeros[g];
    const float scale = loadHalf(scales_->data() + (g * rows_ + row) * 2);
    const float offset = bits == 1 ? loadHalf(zeros + row * 2) : float(bitsAt(zeros, row, bits));
    decodeRow(string, bits, column - begin, n, scale, offset, kernels[bits], out);
    column += n;
    out += n;
  }
}

}  // namespace slim
