// How the integer kernels cut the columns of a packed matrix and of its inputs: a segment is a group, or at
// most 256 columns of a larger one, so that the sum of a segment's products of codes and int8 activations
// (255 · 127 · 256 < 2^24) is exact in float32 as well as in int32.
#pragma once
#include <algorithm>
#include <cstddef>

namespace slim {

struct Segments {
  static constexpr size_t kUnit = 32;   // a segment is padded with zeros to a multiple of this
  static constexpr size_t kMost = 256;  // columns

  size_t cols = 0, groupSize = 0;

  static size_t padded(size_t width) { return (width + kUnit - 1) / kUnit * kUnit; }

  size_t groups() const { return (cols + groupSize - 1) / groupSize; }
  size_t perGroup() const { return (groupSize + kMost - 1) / kMost; }
  size_t count() const {
    const size_t last = cols - (groups() - 1) * groupSize;
    return (groups() - 1) * perGroup() + (last + kMost - 1) / kMost;
  }
  size_t group(size_t segment) const { return segment / perGroup(); }
  size_t begin(size_t segment) const { return group(segment) * groupSize + segment % perGroup() * kMost; }
  size_t end(size_t segment) const {
    return std::min({cols, (group(segment) + 1) * groupSize, begin(segment) + kMost});
  }
  size_t width(size_t segment) const { return end(segment) - begin(segment); }

  // Among the padded columns, where every segment starts at a multiple of kUnit.
  size_t paddedBegin(size_t segment) const {
    const size_t paddedGroup = (perGroup() - 1) * kMost + padded(groupSize - (perGroup() - 1) * kMost);
    return group(segment) * paddedGroup + segment % perGroup() * kMost;
  }
  size_t paddedWidth(size_t segment) const { return padded(width(segment)); }
  size_t paddedCols() const { return paddedBegin(count() - 1) + paddedWidth(count() - 1); }

  bool operator==(const Segments&) const = default;
};

}  // namespace slim
