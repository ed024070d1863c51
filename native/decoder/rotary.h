// Rotary position embedding: element i of a head turns with element i + dim/2 by position ·
// inverseFrequency[i].
#pragma once
#include <vector>

#include "core/thread_pool.h"
#include "decoder/block_spec.h"

namespace slim {

/// Cosines and sines of some positions.
class RotaryTable {
 public:
  void fill(const RotarySpec& spec, size_t firstPosition, size_t positions, ThreadPool& pool);
  void fill(const RotarySpec& spec, const std::vector<size_t>& positions, ThreadPool& pool);
  /// [rows][cos [dim / 2], sin [dim / 2]]
  const std::vector<float>& values() const { return cosSin_; }
  /// Turns one head at the `index`-th of the positions, in place.
  void apply(size_t index, float* head) const;
  /// ∂L/∂head of ∂L/∂(the turned head), in place: the transposed turn.
  void backward(size_t index, float* gradient) const;

 private:
  template <typename Position>
  void fillRows(const RotarySpec& spec, size_t rows, Position position, ThreadPool& pool);
  void turn(size_t index, float direction, float* head) const;
  size_t half_ = 0;
  std::vector<float> cosSin_;
};

}  // namespace slim
