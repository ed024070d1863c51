#include "decoder/rotary.h"

#include <cmath>

namespace slim {

void RotaryTable::fill(const RotarySpec& spec, size_t firstPosition, size_t positions, ThreadPool& pool) {
  fillRows(
      spec, positions, [&](size_t row) { return firstPosition + row; }, pool);
}

void RotaryTable::fill(const RotarySpec& spec, const std::vector<size_t>& positions, ThreadPool& pool) {
  fillRows(
      spec, positions.size(), [&](size_t row) { return positions[row]; }, pool);
}

template <typename Position>
void RotaryTable::fillRows(const RotarySpec& spec, size_t rows, Position position, ThreadPool& pool) {
  half_ = spec.dim / 2;
  if (half_ == 0) return;
  cosSin_.resize(rows * spec.dim);
  constexpr size_t kRows = 32;
  pool.parallelFor((rows + kRows - 1) / kRows, [&](size_t tile, int) {
    for (size_t r = tile * kRows; r < std::min(rows, (tile + 1) * kRows); ++r) {
      float* row = cosSin_.data() + r * spec.dim;
      for (size_t i = 0; i < half_; ++i) {
        // The angle is rounded to float32 as in transformers: at far positions the exact one would differ
        // more.
        const float angle = float(position(r)) * spec.inverseFrequencies[i];
        row[i] = std::cos(angle) * spec.scale;
        row[half_ + i] = std::sin(angle) * spec.scale;
      }
    }
  });
}

void RotaryTable::apply(size_t index, float* head) const { turn(index, 1.0f, head); }

void RotaryTable::backward(size_t index, float* gradient) const { turn(index, -1.0f, gradient); }

void RotaryTable::turn(size_t index, float direction, float* head) const {
  const float* cos = cosSin_.data() + index * 2 * half_;
  const float* sin = cos + half_;
  float* low = head;
  float* high = head + half_;
  for (size_t i = 0; i < half_; ++i) {
    const float x = low[i], y = high[i], s = direction * sin[i];
    low[i] = x * cos[i] - y * s;
    high[i] = y * cos[i] + x * s;
  }
}

}  // namespace slim
