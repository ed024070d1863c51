// The input of packed matrices as the integer kernels take it: int8 with one scale a segment and token. One
// preparation serves every matrix with this input (q, k and v; gate and up).
#pragma once
#include <cstdint>

#include "cpu/segments.h"
#include "decoder/float_buffer.h"

namespace slim {

/// x ≈ scale · q, q = round(x · 127 / max |x|) over a segment. A segment that holds a NaN or an infinity has
/// scale NaN, so that what depends on it becomes NaN.
class alignas(64) PackedActivations {
 public:
  static constexpr size_t kPanelTokens = 12;

  /// Tokens are kept in panels of nearly equal width, at most kPanelTokens: the tokens of a panel share the
  /// registers of a kernel. Scales and sums are [segments][tokens of the panel]; int8 values are
  /// [padded columns / 4][tokens of the panel][4].
  struct Panel {
    size_t firstToken, tokens;
    const int8_t* values;
    const float* scales;
    const float* sums;  // of q, over a segment
  };

  /// Room for so many tokens, at least one; memory grows only.
  void reserve(size_t tokens, const Segments& cut);
  /// The tokens of a panel, of x [tokens, cols], row stride xStride.
  void round(size_t panel, const float* x, size_t xStride);

  size_t tokens() const { return tokens_; }
  const Segments& cut() const { return cut_; }
  size_t panels() const { return panels_; }
  Panel panel(size_t index) const;

 private:
  // What panel() tells is on one cache line, which every thread fetches, and without divisions: a kernel asks
  // at every tile.
  FloatBuffer values_, scales_;  // values_: int8, in words
  uint32_t tokens_ = 0, panels_ = 0;
  uint32_t narrow_ = 0, wider_ = 0;         // the first wider_ panels have narrow_ + 1 tokens, others narrow_
  uint32_t segments_ = 0, paddedCols_ = 0;  // of cut_
  Segments cut_;
};

}  // namespace slim
