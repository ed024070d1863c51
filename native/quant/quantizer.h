// Quantizers of one group: from the weights of a row to a scale, a zero point or mean, and codes (METHODS:
// steps 4, 5).
#pragma once
#include <cstddef>
#include <cstdint>

#include "quant/fit_constants.h"
#include "quant/groups.h"
#include "quant/scale_search.h"

namespace slim {

/// Sixteen rows of one group: weight j of row r at [j * kLanes + r]. Rows past the matrix's last are zeros.
void loadLanes(const GroupedWeight& weight, size_t group, size_t firstRow, float* lanes);

/// Per row, w ≈ scale · (code − offset) with a whole-numbered zero point as offset, or, for one bit,
/// w ≈ offset + scale · (code ? 1 : −1) with offset the mean.
struct GroupFit {
  int bits;
  float scale[kLanes], offset[kLanes];

  /// For 1 bit the mean, and the mean magnitude (MinMax, Sqc) or mean deviation (Wide); of equal weights the
  /// mean alone: every weight would be at the mean, and one bit cannot say sign(0). `h` [width]: what an
  /// error of each column costs, which Wide alone asks for.
  GroupFit(Quantizer quantizer, int bits, const float* lanes, size_t width, const float* h);

  /// Scale and mean become the float16 values that are stored, so that codes and error feedback see what a
  /// reader of the packed matrix will see. They stay finite, and a scale that divides stays positive.
  void roundToStored();

  /// Codes and quantized values of one column (round half to even; 1 bit: a weight at the mean counts as
  /// above it).
  void quantize(const float* column, float* quantized, uint8_t* codes) const;

 private:
  void fitOneBit(Quantizer quantizer, const float* lanes, size_t width, const float* h);
};

}  // namespace slim
