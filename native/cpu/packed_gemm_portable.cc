// The packed kernels in plain C++: the oracle of the others.
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "core/half.h"
#include "cpu/packed_kernels.h"

namespace slim {
namespace {

constexpr size_t kRows = InterleavedMatrix::kTileRows, kQuads = InterleavedMatrix::kQuads;

void quantize(const float* x, size_t count, int8_t* q, float& scale, float& sum) {
  // Magnitudes in the order of their bits, in which infinities and NaNs come last.
  uint32_t most = 0;
  for (size_t i = 0; i < count; ++i) most = std::max(most, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  std::memset(q, 0, Segments::padded(count));
  sum = 0;
  if (most >= 0x7f800000u) {
    scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  const ActivationScale s = activationScale(std::bit_cast<float>(most));
  scale = s.scale;
  int total = 0;
  for (size_t i = 0; i < count; ++i) {
    q[i] = int8_t(std::nearbyint(x[i] * s.lift * s.inverse));
    total += q[i];
  }
  sum = float(total);
}

/// Adds the codes of a block to zeros, as bytes [quad][row][4].
void unpackBlock(const uint8_t* block, unsigned bits, uint8_t* codes) {
  unsigned shift = 0;
  for (unsigned width : {8u, 4u, 2u, 1u}) {
    if (!(bits & width)) continue;
    const unsigned fields = 8 / width, mask = (1u << width) - 1;
    for (size_t line = 0; line < width; ++line, block += 64)
      for (unsigned field = 0; field < fields; ++field)
        for (size_t i = 0; i < 64; ++i)
          codes[(line * fields + field) * 64 + i] |= ((block[i] >> (field * width)) & mask) << shift;
    shift += width;
  }
}

/// sums += what a segment adds to 16 rows of a token.
void addSegment(const uint8_t* meta, bool oneBit, const int32_t* dots, float scale, float sum, float* sums) {
  for (size_t r = 0; r < kRows; ++r) {
    const float weightScale = loadHalf(meta + 2 * r);
    if (oneBit) {
      sums[r] += (2 * float(dots[r]) - sum) * scale * weightScale;
      sums[r] += sum * scale * loadHalf(meta + 32 + 2 * r);
    } else {
      sums[r] += (float(dots[r]) - float(meta[32 + r]) * sum) * scale * weightScale;
    }
  }
}

void multiplyTile(const PackedProduct& product, const PackedActivations& x, size_t tile) {
  constexpr size_t kTokens = 32;
  const InterleavedMatrix& matrix = *product.matrix;
  const size_t firstRow = tile * kRows, rows = std::min(kRows, matrix.rows() - firstRow);
  const uint8_t* const data = matrix.tile(tile);
  for (size_t firstPanel = 0; firstPanel < x.panels(); firstPanel += kTokens) {
    // The panels' tokens, of which a tile's sums fit the first-level cache.
    const size_t lastPanel = std::min(x.panels(), firstPanel + kTokens);
    float sums[kTokens * PackedActivations::kPanelTokens][kRows] = {};
    const size_t firstToken = x.panel(firstPanel).firstToken;
    for (const auto& run : matrix.runs()) {
      for (size_t i = run.first; i < run.first + run.count; ++i) {
        const auto& segment = matrix.segments()[i];
        uint8_t codes[Segments::kMost * kRows] = {};
        for (size_t b = 0; b < segment.blocks; ++b)
          unpackBlock(data + segment.codes + b * InterleavedMatrix::blockBytes(run.bits), run.bits,
                      codes + b * Segments::kUnit * kRows);
        for (size_t p = firstPanel; p < lastPanel; ++p) {
          const auto panel = x.panel(p);
          for (size_t t = 0; t < panel.tokens; ++t) {
            const int8_t* q = panel.values + segment.column * panel.tokens + 4 * t;
            int32_t dots[kRows] = {};
            for (size_t quad = 0; quad < segment.blocks * kQuads; ++quad, q += 4 * panel.tokens)
              for (size_t r = 0; r < kRows; ++r)
                for (size_t j = 0; j < 4; ++j) dots[r] += codes[quad * 64 + 4 * r + j] * q[j];
            const size_t at = segment.segment * panel.tokens + t;
            addSegment(data + segment.meta, run.bits == 1, dots, panel.scales[at], panel.sums[at],
                       sums[panel.firstToken + t - firstToken]);
          }
        }
      }
    }
    const size_t tokens = x.panel(lastPanel - 1).firstToken + x.panel(lastPanel - 1).tokens - firstToken;
    for (size_t t = 0; t < tokens; ++t) {
      float* y = product.y + (firstToken + t) * product.yStride + firstRow;
      for (size_t r = 0; r < rows; ++r) {
        float value = sums[t][r];
        if (product.bias) value += product.bias[firstRow + r];
        y[r] = product.accumulate ? y[r] + value : value;
      }
    }
  }
}

void multiply(const PackedProduct& product, const PackedActivations& x, size_t first, size_t count,
              const WeightStream&) {
  for (size_t tile = first; tile < first + count; ++tile) multiplyTile(product, x, tile);
}

}  // namespace

ActivationScale activationScale(float most) {
  // Below 2^-100 the inverse could overflow: such values are lifted first.
  const float lift = most < 0x1p-100f ? 0x1p100f : 1.0f;
  return {most / 127, lift, most == 0 ? 0.0f : 127 / (most * lift)};
}

const PackedKernels kPackedPortable = {quantize, multiply};

}  // namespace slim
