// Groups: runs of groupSize consecutive input channels, shared by all rows; the last one may be shorter.
#pragma once
#include <algorithm>
#include <cstddef>

namespace slim {

struct Groups {
  size_t cols, groupSize;

  size_t count() const { return (cols + groupSize - 1) / groupSize; }
  size_t begin(size_t group) const { return group * groupSize; }
  size_t end(size_t group) const { return std::min(cols, begin(group) + groupSize); }
  size_t width(size_t group) const { return end(group) - begin(group); }
};

/// A row-major float32 weight [rows, cols] cut into groups.
struct GroupedWeight {
  const float* data;
  size_t rows;
  Groups groups;

  size_t cols() const { return groups.cols; }
};

}  // namespace slim
