// The packed kernels with AVX2: vpmaddubsw multiplies codes (u8) by activations (s8) and adds pairs to int16,
// which take a bounded number of additions before they are widened to int32. Codes of more than four bits go
// through as two nibbles: 2 · 255 · 127 would not fit int16. Tables of sums, looked up with vpshufb, take
// fewer instructions at 1 and 2 bits, but a layout and activations of their own. On a Zen 5, 4096 × 4096 of 2
// bits in cache took a prototype with them 222 µs, these kernels 175 µs (in different runs).
#if defined(__x86_64__)
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/packed_kernels.h"
#include "cpu/weight_prefetch.h"

#define SLIM_AVX2 __attribute__((target("avx2,fma,f16c")))
#define SLIM_AVX2_INLINE SLIM_AVX2 inline __attribute__((always_inline))

namespace slim {
namespace {

constexpr size_t kRows = InterleavedMatrix::kTileRows, kQuads = InterleavedMatrix::kQuads;
constexpr size_t kHalves = 2;  // of a tile: eight rows a register
using Panel = PackedActivations::Panel;
using Segment = InterleavedMatrix::Segment;

/// Quads that int16 sums take: a quad adds at most 2 · 127 · (2^bits − 1). In whole blocks, for a code's
/// lower nibble when it has more than four bits.
constexpr size_t quadsPerDrain(unsigned bits) {
  const size_t most = 32767 / (2 * 127 * ((size_t(1) << std::min(bits, 4u)) - 1));
  return most / kQuads * kQuads;
}
static_assert(quadsPerDrain(1) == 128 && quadsPerDrain(2) == 40 && quadsPerDrain(3) == 16 &&
              quadsPerDrain(4) == 8 && quadsPerDrain(8) == 8);

SLIM_AVX2 void quantize(const float* x, size_t count, int8_t* q, float& scale, float& sum) {
  const size_t padded = Segments::padded(count);
  alignas(32) float edge[Segments::kMost];
  if (padded != count) {
    std::fill(std::copy_n(x, count, edge), edge + padded, 0.0f);
    x = edge;
  }
  // Magnitudes in the order of their bits, in which infinities and NaNs come last.
  const __m256i magnitude = _mm256_set1_epi32(0x7fffffff);
  __m256i most = _mm256_setzero_si256();
  for (size_t i = 0; i < padded; i += 8) {
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + i));
    most = _mm256_max_epu32(most, _mm256_and_si256(bits, magnitude));
  }
  alignas(32) uint32_t lanes[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), most);
  const uint32_t mostBits = *std::max_element(lanes, lanes + 8);
  if (mostBits >= 0x7f800000u) {
    std::memset(q, 0, padded);
    scale = std::numeric_limits<float>::quiet_NaN();
    sum = 0;
    return;
  }
  const ActivationScale s = activationScale(std::bit_cast<float>(mostBits));
  const __m256 lift = _mm256_set1_ps(s.lift), inverse = _mm256_set1_ps(s.inverse);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);  // undoes the packs' two lanes
  __m256i total = _mm256_setzero_si256();
  for (size_t i = 0; i < padded; i += 32) {
    __m256i level[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) {
      const __m256 value = _mm256_loadu_ps(x + i + 8 * j);
      level[j] = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_mul_ps(value, lift), inverse));
      total = _mm256_add_epi32(total, level[j]);
    }
    const __m256i bytes =
        _mm256_packs_epi16(_mm256_packs_epi32(level[0], level[1]), _mm256_packs_epi32(level[2], level[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), _mm256_permutevar8x32_epi32(bytes, order));
  }
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), total);
  int32_t all = 0;
  for (uint32_t lane : lanes) all += int32_t(lane);
  scale = s.scale;
  sum = float(all);
}

/// A quad's bits of one plane, above kShift lower ones. The shifts move bits between neighbouring bytes; the
/// mask drops those.
template <unsigned kWidth, unsigned kShift>
SLIM_AVX2_INLINE __m256i planeBits(const uint8_t* lines, size_t quad) {
  constexpr unsigned kFields = 8 / kWidth;
  const unsigned from = unsigned(quad) % kFields * kWidth;
  const __m256i all = _mm256_load_si256(reinterpret_cast<const __m256i*>(lines + quad / kFields * 64));
  const __m256i mask = _mm256_set1_epi8(char(((1u << kWidth) - 1) << kShift));
  return _mm256_and_si256(from == kShift  ? all
                          : from > kShift ? _mm256_srli_epi16(all, int(from - kShift))
                                          : _mm256_slli_epi16(all, int(kShift - from)),
                          mask);
}

/// Codes of eight rows of a quad; `lines` is a block's first line, plus 32 for the second eight.
template <unsigned kBits>
SLIM_AVX2_INLINE __m256i narrowCodes(const uint8_t* lines, size_t quad) {
  static_assert(kBits <= 4);
  if constexpr (kBits == 4) return planeBits<4, 0>(lines, quad);
  if constexpr (kBits == 1) return planeBits<1, 0>(lines, quad);
  const __m256i low = planeBits<2, 0>(lines, quad);
  if constexpr (kBits == 2) return low;
  return _mm256_or_si256(low, planeBits<1, 2>(lines + 128, quad));
}

template <unsigned kBits>
SLIM_AVX2_INLINE __m256i lowCodes(const uint8_t* lines, size_t quad) {
  if constexpr (kBits == 8)
    return _mm256_and_si256(_mm256_load_si256(reinterpret_cast<const __m256i*>(lines + quad * 64)),
                            _mm256_set1_epi8(15));
  else
    return narrowCodes<std::min(kBits, 4u)>(lines, quad);
}

/// The bits above the lowest four.
template <unsigned kBits>
SLIM_AVX2_INLINE __m256i highCodes(const uint8_t* lines, size_t quad) {
  if constexpr (kBits == 8)
    return _mm256_and_si256(
        _mm256_srli_epi16(_mm256_load_si256(reinterpret_cast<const __m256i*>(lines + quad * 64)), 4),
        _mm256_set1_epi8(15));
  else
    return narrowCodes<kBits - 4>(lines + 256, quad);
}

SLIM_AVX2_INLINE __m256i broadcastQuad(const int8_t* quad) {
  int32_t word;
  std::memcpy(&word, quad, 4);
  return _mm256_set1_epi32(word);
}

/// dots + 16-bit sums of pairs, times a power of two.
SLIM_AVX2_INLINE __m256i drain(__m256i dots, __m256i sums, int16_t factor) {
  return _mm256_add_epi32(dots, _mm256_madd_epi16(sums, _mm256_set1_epi16(factor)));
}

/// Of eight rows: a code's weight is scale · (code − zero) + mean. One bit, mean ± scale, is scale · 2 (code
/// − ½) + mean.
struct RowScales {
  __m256 scale, zero, mean;
};

SLIM_AVX2_INLINE __m256 loadHalves(const uint8_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

SLIM_AVX2_INLINE RowScales loadRowScales(const uint8_t* meta, bool oneBit, size_t half) {
  const __m256 scale = loadHalves(meta + 16 * half);
  if (oneBit) return {_mm256_add_ps(scale, scale), _mm256_set1_ps(0.5f), loadHalves(meta + 32 + 16 * half)};
  const __m128i zeros = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(meta + 32 + 8 * half));
  return {scale, _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(zeros)), _mm256_setzero_ps()};
}

/// total + what a segment adds for a token: `dots` are its products of codes and int8 activations.
SLIM_AVX2_INLINE __m256 addSegment(__m256 total, __m256i dots, const RowScales& rows, bool oneBit,
                                   float xScale, float xSum) {
  const __m256 centred = _mm256_fnmadd_ps(rows.zero, _mm256_set1_ps(xSum), _mm256_cvtepi32_ps(dots));
  total = _mm256_fmadd_ps(_mm256_mul_ps(centred, _mm256_set1_ps(xScale)), rows.scale, total);
  return oneBit ? _mm256_fmadd_ps(_mm256_set1_ps(xSum * xScale), rows.mean, total) : total;
}

SLIM_AVX2 void storeRows(const PackedProduct& product, size_t token, size_t firstRow, const float* totals) {
  const size_t rows = std::min(kRows, product.matrix->rows() - firstRow);
  float* y = product.y + token * product.yStride + firstRow;
  for (size_t r = 0; r < rows; ++r) {
    float value = totals[r];
    if (product.bias) value += product.bias[firstRow + r];
    y[r] = product.accumulate ? y[r] + value : value;
  }
}

// ---- Few tokens: the codes go from memory through registers.

constexpr size_t kFewTokens = 3;

/// dots of kTokens tokens and eight rows over a segment.
template <unsigned kBits, size_t kTokens>
SLIM_AVX2_INLINE void multiplySegment(const uint8_t* lines, size_t blocks, const int8_t* x,
                                      __m256i (&dots)[kTokens]) {
  constexpr size_t kBlocksPerDrain = quadsPerDrain(kBits) / kQuads;
#pragma GCC unroll 4
  for (size_t t = 0; t < kTokens; ++t) dots[t] = _mm256_setzero_si256();
  for (size_t b = 0; b < blocks;) {
    __m256i low[kTokens], high[kTokens];
#pragma GCC unroll 4
    for (size_t t = 0; t < kTokens; ++t) low[t] = high[t] = _mm256_setzero_si256();
    for (const size_t end = std::min(blocks, b + kBlocksPerDrain); b < end;
         ++b, lines += InterleavedMatrix::blockBytes(kBits)) {
#pragma GCC unroll 8
      for (size_t quad = 0; quad < kQuads; ++quad, x += 4 * kTokens) {
        const __m256i lowCode = lowCodes<kBits>(lines, quad);
#pragma GCC unroll 4
        for (size_t t = 0; t < kTokens; ++t)
          low[t] = _mm256_add_epi16(low[t], _mm256_maddubs_epi16(lowCode, broadcastQuad(x + 4 * t)));
        if constexpr (kBits > 4) {
          const __m256i highCode = highCodes<kBits>(lines, quad);
#pragma GCC unroll 4
          for (size_t t = 0; t < kTokens; ++t)
            high[t] = _mm256_add_epi16(high[t], _mm256_maddubs_epi16(highCode, broadcastQuad(x + 4 * t)));
        }
      }
    }
#pragma GCC unroll 4
    for (size_t t = 0; t < kTokens; ++t) {
      dots[t] = drain(dots[t], low[t], 1);
      if constexpr (kBits > 4) dots[t] = drain(dots[t], high[t], 16);
    }
  }
}

template <unsigned kBits, size_t kHalf, size_t kTokens>
SLIM_AVX2_INLINE void addHalfSegment(const uint8_t* tile, const Segment& s, const Panel& panel,
                                     float* totals) {
  __m256i dots[kTokens];
  multiplySegment<kBits>(tile + s.codes + 32 * kHalf, s.blocks, panel.values + s.column * kTokens, dots);
  const RowScales rows = loadRowScales(tile + s.meta, kBits == 1, kHalf);
#pragma GCC unroll 4
  for (size_t t = 0; t < kTokens; ++t) {
    float* total = totals + t * kRows + 8 * kHalf;
    const size_t at = s.segment * kTokens + t;
    _mm256_store_ps(total, addSegment(_mm256_load_ps(total), dots[t], rows, kBits == 1, panel.scales[at],
                                      panel.sums[at]));
  }
}

/// totals [token][16 rows] += the segments of a run of kBits, for one tile and kTokens tokens.
template <unsigned kBits, size_t kTokens>
SLIM_AVX2 void addRun(const uint8_t* tile, const Segment* segments, size_t count, const Panel& panel,
                      const WeightStream& stream, float* totals) {
  for (const Segment* s = segments; s < segments + count; ++s) {
    prefetchAhead(tile + s->codes, s->blocks * InterleavedMatrix::blockBytes(kBits), stream);
    addHalfSegment<kBits, 0, kTokens>(tile, *s, panel, totals);
    addHalfSegment<kBits, 1, kTokens>(tile, *s, panel, totals);
  }
}

using AddRun = void (*)(const uint8_t*, const Segment*, size_t, const Panel&, const WeightStream&, float*);

template <size_t kTokens, size_t... kBits>
constexpr std::array<AddRun, 9> addRunsByBits(std::index_sequence<kBits...>) {
  return {nullptr, addRun<kBits + 1, kTokens>...};
}
template <size_t... kTokens>
constexpr auto addRunsByTokens(std::index_sequence<kTokens...>) {
  return std::array{addRunsByBits<kTokens + 1>(std::make_index_sequence<8>())...};
}
constexpr auto kAddRun = addRunsByTokens(std::make_index_sequence<kFewTokens>());  // [tokens − 1][bits]

void multiplyFew(const PackedProduct& product, const Panel& panel, size_t tile, const WeightStream& stream) {
  const InterleavedMatrix& matrix = *product.matrix;
  prefetchAhead(matrix.tile(tile), matrix.codesBegin(), stream);
  alignas(32) float totals[kFewTokens * kRows] = {};
  for (const auto& run : matrix.runs())
    kAddRun[panel.tokens - 1][run.bits](matrix.tile(tile), matrix.segments().data() + run.first, run.count,
                                        panel, stream, totals);
  for (size_t t = 0; t < panel.tokens; ++t)
    storeRows(product, panel.firstToken + t, tile * kRows, totals + t * kRows);
}

// ---- More tokens: some segments of a tile are unpacked into the first-level cache, and used for all of
// them.

constexpr size_t kDepth = 512;       // columns at a time: 8 KB of codes, 16 KB of those in two nibbles
constexpr size_t kBatchPanels = 20;  // whose sums, 15 KB, stay in the cache
constexpr size_t kTokens = 4;        // that share a kernel's registers

struct UnpackedSegment {
  const uint8_t* meta;
  const uint8_t *low, *high;  // [quad][16 rows][4]; high: nullptr up to four bits
  size_t quads, drain, column, segment;
  bool oneBit;
};

struct Unpacked {
  alignas(64) uint8_t low[kDepth * kRows], high[kDepth * kRows];
  UnpackedSegment segments[kDepth / Segments::kUnit];
  size_t count = 0, depth = 0;
};

template <unsigned kBits>
SLIM_AVX2 void unpackSegment(const uint8_t* tile, const Segment& s, uint8_t* low, uint8_t* high,
                             const WeightStream& stream) {
  const uint8_t* block = tile + s.codes;
  prefetchAhead(block, s.blocks * InterleavedMatrix::blockBytes(kBits), stream);
  for (size_t b = 0; b < s.blocks; ++b, block += InterleavedMatrix::blockBytes(kBits)) {
#pragma GCC unroll 8
    for (size_t quad = 0; quad < kQuads; ++quad) {
#pragma GCC unroll 2
      for (size_t half = 0; half < kHalves; ++half) {
        const uint8_t* lines = block + 32 * half;
        _mm256_store_si256(reinterpret_cast<__m256i*>(low), lowCodes<kBits>(lines, quad));
        low += 32;
        if constexpr (kBits > 4) {
          _mm256_store_si256(reinterpret_cast<__m256i*>(high), highCodes<kBits>(lines, quad));
          high += 32;
        }
      }
    }
  }
}

using UnpackSegment = void (*)(const uint8_t*, const Segment&, uint8_t*, uint8_t*, const WeightStream&);

template <size_t... kBits>
constexpr std::array<UnpackSegment, 9> unpackByBits(std::index_sequence<kBits...>) {
  return {nullptr, unpackSegment<kBits + 1>...};
}
constexpr auto kUnpackSegment = unpackByBits(std::make_index_sequence<8>());

/// In assembly: GCC 12 loads all activations of a quad first, and then has too few registers for the sums.
SLIM_AVX2_INLINE __m256i addProducts(__m256i sums, __m256i codes, __m256i activations) {
  __m256i product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0"
      : "+x"(sums), "=&x"(product)
      : "x"(codes), "x"(activations));
  return sums;
}

/// dots [token][half] += factor · codes · activations, over all quads of a segment.
template <size_t kCount>
SLIM_AVX2_INLINE void multiplyCodes(const uint8_t* codes, size_t quads, size_t perDrain, const int8_t* x,
                                    size_t xStride, int16_t factor, __m256i (&dots)[kCount][kHalves]) {
  for (size_t quad = 0; quad < quads;) {
    __m256i sums[kCount][kHalves];
#pragma GCC unroll 4
    for (size_t t = 0; t < kCount; ++t) sums[t][0] = sums[t][1] = _mm256_setzero_si256();
    for (const size_t end = std::min(quads, quad + perDrain); quad < end; ++quad, codes += 64, x += xStride) {
      const __m256i code0 = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes)),
                    code1 = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + 32));
#pragma GCC unroll 4
      for (size_t t = 0; t < kCount; ++t) {
        const __m256i activations = broadcastQuad(x + 4 * t);
        sums[t][0] = addProducts(sums[t][0], code0, activations);
        sums[t][1] = addProducts(sums[t][1], code1, activations);
      }
    }
#pragma GCC unroll 4
    for (size_t t = 0; t < kCount; ++t)
#pragma GCC unroll 2
      for (size_t half = 0; half < kHalves; ++half)
        dots[t][half] = drain(dots[t][half], sums[t][half], factor);
  }
}

/// totals [token][16 rows] += the unpacked segments, for kCount tokens of a panel.
template <size_t kCount>
SLIM_AVX2 void addUnpacked(const Unpacked& unpacked, const Panel& panel, size_t first, float* totals) {
  for (const UnpackedSegment* s = unpacked.segments; s < unpacked.segments + unpacked.count; ++s) {
    __m256i dots[kCount][kHalves];
#pragma GCC unroll 4
    for (size_t t = 0; t < kCount; ++t) dots[t][0] = dots[t][1] = _mm256_setzero_si256();
    const int8_t* x = panel.values + s->column * panel.tokens + 4 * first;
    multiplyCodes<kCount>(s->low, s->quads, s->drain, x, 4 * panel.tokens, 1, dots);
    if (s->high) multiplyCodes<kCount>(s->high, s->quads, s->drain, x, 4 * panel.tokens, 16, dots);
    const size_t at = s->segment * panel.tokens + first;
#pragma GCC unroll 2
    for (size_t half = 0; half < kHalves; ++half) {
      const RowScales rows = loadRowScales(s->meta, s->oneBit, half);
#pragma GCC unroll 4
      for (size_t t = 0; t < kCount; ++t) {
        float* total = totals + t * kRows + 8 * half;
        _mm256_store_ps(total, addSegment(_mm256_load_ps(total), dots[t][half], rows, s->oneBit,
                                          panel.scales[at + t], panel.sums[at + t]));
      }
    }
  }
}

using AddUnpacked = void (*)(const Unpacked&, const Panel&, size_t, float*);
constexpr std::array<AddUnpacked, kTokens> kAddUnpacked = {addUnpacked<1>, addUnpacked<2>, addUnpacked<3>,
                                                           addUnpacked<4>};

/// A tile and panels [firstPanel, lastPanel).
void multiplyBatch(const PackedProduct& product, const PackedActivations& x, size_t tile, size_t firstPanel,
                   size_t lastPanel, const WeightStream& stream) {
  const InterleavedMatrix& matrix = *product.matrix;
  alignas(32) float totals[kBatchPanels * PackedActivations::kPanelTokens * kRows];
  const size_t firstToken = x.panel(firstPanel).firstToken;
  const size_t tokens = x.panel(lastPanel - 1).firstToken + x.panel(lastPanel - 1).tokens - firstToken;
  std::fill_n(totals, tokens * kRows, 0.0f);

  prefetchAhead(matrix.tile(tile), matrix.codesBegin(), stream);
  Unpacked unpacked;
  const auto useUnpacked = [&] {
    for (size_t p = firstPanel; p < lastPanel; ++p) {
      const Panel panel = x.panel(p);
      for (size_t first = 0, count; first < panel.tokens; first += count) {
        count = std::min(kTokens, panel.tokens - first);
        kAddUnpacked[count - 1](unpacked, panel, first,
                                totals + (panel.firstToken - firstToken + first) * kRows);
      }
    }
    unpacked.count = unpacked.depth = 0;
  };
  const uint8_t* data = matrix.tile(tile);
  for (const auto& run : matrix.runs()) {
    for (size_t i = run.first; i < run.first + run.count; ++i) {
      const Segment& s = matrix.segments()[i];
      const size_t depth = s.blocks * Segments::kUnit;
      if (unpacked.depth + depth > kDepth) useUnpacked();
      const size_t at = unpacked.depth * kRows;
      unpacked.segments[unpacked.count++] = {data + s.meta,
                                             unpacked.low + at,
                                             run.bits > 4 ? unpacked.high + at : nullptr,
                                             depth / 4,
                                             quadsPerDrain(run.bits),
                                             s.column,
                                             s.segment,
                                             run.bits == 1};
      kUnpackSegment[run.bits](data, s, unpacked.low + at, unpacked.high + at, stream);
      unpacked.depth += depth;
    }
  }
  useUnpacked();
  for (size_t t = 0; t < tokens; ++t) storeRows(product, firstToken + t, tile * kRows, totals + t * kRows);
}

void multiply(const PackedProduct& product, const PackedActivations& x, size_t first, size_t count,
              const WeightStream& stream) {
  const WeightStream kept{stream.end, stream.next, false};  // beside what is unpacked
  const size_t batches = (x.panels() + kBatchPanels - 1) / kBatchPanels;
  for (size_t tile = first; tile < first + count; ++tile) {
    if (x.tokens() <= kFewTokens) {
      multiplyFew(product, x.panel(0), tile, stream);
      continue;
    }
    for (size_t b = 0; b < batches; ++b)
      multiplyBatch(product, x, tile, b * x.panels() / batches, (b + 1) * x.panels() / batches, kept);
  }
}

}  // namespace

const PackedKernels kPackedAvx2 = {quantize, multiply};

}  // namespace slim
#endif
