// The packed kernels with NEON: sdot adds the four products of a quad's codes and activations to four rows'
// int32 sums; where there is FEAT_I8MM, smmla multiplies two rows by two tokens, eight columns at once, for
// batches. Codes of up to seven bits are int8 as they are. Those of eight become code − 128, and so do their
// zero points: what both kinds of product add up to is the same integer as with unsigned codes.
#if defined(__aarch64__)
#include <arm_neon.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/packed_kernels.h"
#include "cpu/weight_prefetch.h"

#define SLIM_DOT __attribute__((target("arch=armv8.2-a+dotprod")))
#define SLIM_DOT_INLINE SLIM_DOT inline __attribute__((always_inline))
#define SLIM_I8MM __attribute__((target("arch=armv8.2-a+dotprod+i8mm")))
#define SLIM_I8MM_INLINE SLIM_I8MM inline __attribute__((always_inline))

namespace slim {
namespace {

constexpr size_t kRows = InterleavedMatrix::kTileRows, kQuads = InterleavedMatrix::kQuads;
constexpr size_t kVectors = 4;  // of a tile: four rows a register
using Panel = PackedActivations::Panel;
using Segment = InterleavedMatrix::Segment;

SLIM_DOT void quantize(const float* x, size_t count, int8_t* q, float& scale, float& sum) {
  const size_t padded = Segments::padded(count);
  alignas(16) float edge[Segments::kMost];
  if (padded != count) {
    std::fill(std::copy_n(x, count, edge), edge + padded, 0.0f);
    x = edge;
  }
  // Magnitudes in the order of their bits, in which infinities and NaNs come last.
  uint32x4_t most = vdupq_n_u32(0);
  for (size_t i = 0; i < padded; i += 4)
    most = vmaxq_u32(most, vandq_u32(vreinterpretq_u32_f32(vld1q_f32(x + i)), vdupq_n_u32(0x7fffffffu)));
  const uint32_t mostBits = vmaxvq_u32(most);
  if (mostBits >= 0x7f800000u) {
    std::memset(q, 0, padded);
    scale = std::numeric_limits<float>::quiet_NaN();
    sum = 0;
    return;
  }
  const ActivationScale s = activationScale(std::bit_cast<float>(mostBits));
  int32x4_t total = vdupq_n_s32(0);
  for (size_t i = 0; i < padded; i += 16) {
    int32x4_t level[4];
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) {
      level[j] = vcvtnq_s32_f32(vmulq_n_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * j), s.lift), s.inverse));
      total = vaddq_s32(total, level[j]);
    }
    const int16x8_t low = vcombine_s16(vmovn_s32(level[0]), vmovn_s32(level[1])),
                    high = vcombine_s16(vmovn_s32(level[2]), vmovn_s32(level[3]));
    vst1q_s8(q + i, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
  }
  scale = s.scale;
  sum = float(vaddvq_s32(total));
}

/// Puts a quad's bits of one plane on top of `codes`, its kShift lower ones, of four rows; `lines` is the
/// plane's first line, plus 16 for every four rows before.
template <unsigned kWidth, unsigned kShift>
SLIM_DOT_INLINE uint8x16_t addPlane(uint8x16_t codes, const uint8_t* lines, size_t quad) {
  constexpr unsigned kFields = 8 / kWidth;
  const int from = int(quad % kFields * kWidth), shift = int(kShift);
  const uint8x16_t all = vld1q_u8(lines + quad / kFields * 64),
                   mask = vdupq_n_u8(((1u << kWidth) - 1) << kShift);
  if constexpr (kShift > 0)
    return vbslq_u8(mask, from > shift ? all >> (from - shift) : all << (shift - from), codes);
  return from + kWidth == 8 ? all >> from : (all >> from) & mask;
}

/// Codes of four rows of a quad (8 bits: minus 128); `lines` as above, of a block.
template <unsigned kBits>
SLIM_DOT_INLINE int8x16_t codesOf(const uint8_t* lines, size_t quad) {
  if constexpr (kBits == 8) return vreinterpretq_s8_u8(vld1q_u8(lines + 64 * quad) ^ vdupq_n_u8(128));
  uint8x16_t codes = vdupq_n_u8(0);
  if constexpr (kBits & 4) codes = addPlane<4, 0>(codes, lines, quad);
  if constexpr (kBits & 2) codes = addPlane<2, kBits & 4>(codes, lines + 64 * (kBits & 4), quad);
  if constexpr (kBits & 1) codes = addPlane<1, kBits & 6>(codes, lines + 64 * (kBits & 6), quad);
  return vreinterpretq_s8_u8(codes);
}

/// dots + codes · the quad of activations in a lane. The instruction takes the lane as a constant, which it
/// is once the callers' loops are unrolled.
SLIM_DOT_INLINE int32x4_t addQuad(int32x4_t dots, int8x16_t codes, int8x16_t activations, size_t lane) {
  switch (lane) {
    case 0:
      return vdotq_laneq_s32(dots, codes, activations, 0);
    case 1:
      return vdotq_laneq_s32(dots, codes, activations, 1);
    case 2:
      return vdotq_laneq_s32(dots, codes, activations, 2);
    default:
      return vdotq_laneq_s32(dots, codes, activations, 3);
  }
}

/// Of four rows: a code's weight is scale · (code − zero) + mean. One bit, mean ± scale, is scale · 2 (code −
/// ½) + mean.
struct RowScales {
  float32x4_t scale, zero, mean;
};

SLIM_DOT_INLINE float32x4_t loadHalves(const uint8_t* p) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

SLIM_DOT_INLINE RowScales loadRowScales(const uint8_t* meta, unsigned bits, size_t vector) {
  const float32x4_t scale = loadHalves(meta + 8 * vector);
  if (bits == 1) return {scale + scale, vdupq_n_f32(0.5f), loadHalves(meta + 32 + 8 * vector)};
  uint32_t bytes;
  std::memcpy(&bytes, meta + 32 + 4 * vector, 4);
  const float32x4_t zero = vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(bytes)))));
  return {scale, bits == 8 ? zero - vdupq_n_f32(128) : zero, vdupq_n_f32(0)};
}

/// total + what a segment adds for a token: `dots` are its products of codes and int8 activations. The same
/// operations on floats as with AVX2 and AVX-512.
SLIM_DOT_INLINE float32x4_t addSegment(float32x4_t total, int32x4_t dots, const RowScales& rows, bool oneBit,
                                       float xScale, float xSum) {
  const float32x4_t centred = vfmsq_n_f32(vcvtq_f32_s32(dots), rows.zero, xSum);  // exact
  total = vfmaq_f32(total, vmulq_n_f32(centred, xScale), rows.scale);
  return oneBit ? vfmaq_n_f32(total, rows.mean, xSum * xScale) : total;
}

void storeRows(const PackedProduct& product, size_t token, size_t firstRow, const float* totals) {
  const size_t rows = std::min(kRows, product.matrix->rows() - firstRow);
  float* y = product.y + token * product.yStride + firstRow;
  for (size_t r = 0; r < rows; ++r) {
    float value = totals[r];
    if (product.bias) value += product.bias[firstRow + r];
    y[r] = product.accumulate ? y[r] + value : value;
  }
}

/// totals [token][16 rows] += a segment, for kTokens tokens whose scales and sums follow those given.
template <size_t kTokens>
SLIM_DOT_INLINE void addTotals(const int32x4_t (&dots)[kTokens][kVectors], const uint8_t* meta, unsigned bits,
                               const float* scales, const float* sums, float* totals) {
#pragma GCC unroll 4
  for (size_t v = 0; v < kVectors; ++v) {
    const RowScales rows = loadRowScales(meta, bits, v);
#pragma GCC unroll 4
    for (size_t t = 0; t < kTokens; ++t) {
      float* total = totals + t * kRows + 4 * v;
      vst1q_f32(total, addSegment(vld1q_f32(total), dots[t][v], rows, bits == 1, scales[t], sums[t]));
    }
  }
}

// ---- Few tokens: the codes go from memory through registers.

constexpr size_t kFewTokens = 4;

/// One token, one or two bits: codes are masked where they lie. Each place in the bytes has its own sum,
/// 2^from times too large, which saves the shifts: one instruction a quad beside sdot in place of two. Only
/// the highest place, negative as int8, is shifted down instead. Of kCount vectors from kFirst on.
template <unsigned kBits, size_t kFirst, size_t kCount>
SLIM_DOT_INLINE void multiplyInPlace(const uint8_t* block, size_t blocks, const int8_t* x, int32x4_t* dots) {
  constexpr unsigned kFields = 8 / kBits;
  int32x4_t sums[kCount][kFields];
#pragma GCC unroll 4
  for (size_t v = 0; v < kCount; ++v)
#pragma GCC unroll 8
    for (unsigned field = 0; field < kFields; ++field) sums[v][field] = vdupq_n_s32(0);
  for (size_t b = 0; b < blocks; ++b, block += InterleavedMatrix::blockBytes(kBits), x += 4 * kQuads) {
    const int8x16_t activations[2] = {vld1q_s8(x), vld1q_s8(x + 16)};
#pragma GCC unroll 2
    for (unsigned line = 0; line < kBits; ++line)
#pragma GCC unroll 4
      for (size_t v = 0; v < kCount; ++v) {
        const uint8x16_t all = vld1q_u8(block + 64 * line + 16 * (kFirst + v));
#pragma GCC unroll 8
        for (unsigned field = 0; field < kFields; ++field) {
          const unsigned quad = line * kFields + field;
          const uint8x16_t mask = vdupq_n_u8(((1u << kBits) - 1) << (field * kBits));
          const uint8x16_t codes = field == kFields - 1 ? all >> int(8 - kBits) : all & mask;
          sums[v][field] =
              addQuad(sums[v][field], vreinterpretq_s8_u8(codes), activations[quad / 4], quad % 4);
        }
      }
  }
#pragma GCC unroll 4
  for (size_t v = 0; v < kCount; ++v) {
    dots[kFirst + v] = sums[v][kFields - 1];
#pragma GCC unroll 8
    for (unsigned field = 0; field < kFields - 1; ++field)
      dots[kFirst + v] += sums[v][field] >> int(field * kBits);
  }
}

/// The same for several tokens, or with codes put together from planes.
template <unsigned kBits, size_t kTokens>
SLIM_DOT_INLINE void multiplySegment(const uint8_t* block, size_t blocks, const int8_t* x,
                                     int32x4_t (&dots)[kTokens][kVectors]) {
  // sdot has a latency of three or four cycles, and up to four start in one: as many sums as registers allow.
  constexpr size_t kChains = kTokens == 1 ? 4 : kTokens == 2 ? 2 : 1;
  int32x4_t sums[kTokens][kVectors][kChains];
#pragma GCC unroll 4
  for (size_t t = 0; t < kTokens; ++t)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v)
#pragma GCC unroll 4
      for (size_t chain = 0; chain < kChains; ++chain) sums[t][v][chain] = vdupq_n_s32(0);
  for (size_t b = 0; b < blocks;
       ++b, block += InterleavedMatrix::blockBytes(kBits), x += 4 * kQuads * kTokens) {
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v)
#pragma GCC unroll 8
      for (size_t quad = 0; quad < kQuads; ++quad) {
        const int8x16_t codes = codesOf<kBits>(block + 16 * v, quad);
#pragma GCC unroll 4
        for (size_t t = 0; t < kTokens; ++t) {
          const size_t at = quad * kTokens + t;
          int32x4_t& sum = sums[t][v][quad % kChains];
          sum = addQuad(sum, codes, vld1q_s8(x + at / 4 * 16), at % 4);
        }
      }
  }
#pragma GCC unroll 4
  for (size_t t = 0; t < kTokens; ++t)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      dots[t][v] = sums[t][v][0];
#pragma GCC unroll 4
      for (size_t chain = 1; chain < kChains; ++chain) dots[t][v] += sums[t][v][chain];
    }
}

/// totals [token][16 rows] += the segments of a run of kBits, for one tile and kTokens tokens.
template <unsigned kBits, size_t kTokens>
SLIM_DOT void addRun(const uint8_t* tile, const Segment* segments, size_t count, const Panel& panel,
                     const WeightStream& stream, float* totals) {
  for (const Segment* s = segments; s < segments + count; ++s) {
    const uint8_t* block = tile + s->codes;
    prefetchAhead(block, s->blocks * InterleavedMatrix::blockBytes(kBits), stream);
    const int8_t* x = panel.values + s->column * kTokens;
    int32x4_t dots[kTokens][kVectors];
    if constexpr (kTokens == 1 && kBits == 1) {  // eight sums a vector: registers for two
      multiplyInPlace<kBits, 0, 2>(block, s->blocks, x, dots[0]);
      multiplyInPlace<kBits, 2, 2>(block, s->blocks, x, dots[0]);
    } else if constexpr (kTokens == 1 && kBits == 2) {
      multiplyInPlace<kBits, 0, 4>(block, s->blocks, x, dots[0]);
    } else {
      multiplySegment<kBits>(block, s->blocks, x, dots);
    }
    const size_t at = s->segment * kTokens;
    addTotals(dots, tile + s->meta, kBits, panel.scales + at, panel.sums + at, totals);
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
  alignas(64) float totals[kFewTokens * kRows] = {};
  for (const auto& run : matrix.runs())
    kAddRun[panel.tokens - 1][run.bits](matrix.tile(tile), matrix.segments().data() + run.first, run.count,
                                        panel, stream, totals);
  for (size_t t = 0; t < panel.tokens; ++t)
    storeRows(product, panel.firstToken + t, tile * kRows, totals + t * kRows);
}

// ---- More tokens: some segments of a tile are unpacked into the first-level cache, and used for all of
// them.

constexpr size_t kDepth = 512;       // columns at a time: 8 KB of codes
constexpr size_t kBatchPanels = 20;  // whose sums, 15 KB, stay in the cache
constexpr size_t kTokens = 4;        // that share a kernel's registers: 16 sums

struct UnpackedSegment {
  const uint8_t* meta;
  const int8_t* codes;  // as unpackSegment puts them
  size_t quads, column, segment;
  unsigned bits;
};

struct Unpacked {
  alignas(64) int8_t codes[kDepth * kRows];
  UnpackedSegment segments[kDepth / Segments::kUnit];
  size_t count = 0, depth = 0;
};

/// The first or second operand's rows as smmla takes them: of two rows (tokens) four columns of a quad, four
/// of the next. kHigh: of the vectors' third and fourth rows.
template <bool kHigh>
SLIM_DOT_INLINE int8x16_t pairQuads(int8x16_t quad, int8x16_t next) {
  const int32x4_t a = vreinterpretq_s32_s8(quad), b = vreinterpretq_s32_s8(next);
  return vreinterpretq_s8_s32(kHigh ? vzip2q_s32(a, b) : vzip1q_s32(a, b));
}

/// Codes as [quad][16 rows][4] or, with kPairs, [pair of quads][row pair][2][8].
template <unsigned kBits, bool kPairs>
SLIM_DOT void unpackSegment(const uint8_t* tile, const Segment& s, int8_t* out, const WeightStream& stream) {
  const uint8_t* block = tile + s.codes;
  prefetchAhead(block, s.blocks * InterleavedMatrix::blockBytes(kBits), stream);
  for (size_t b = 0; b < s.blocks; ++b, block += InterleavedMatrix::blockBytes(kBits)) {
#pragma GCC unroll 8
    for (size_t quad = 0; quad < kQuads; quad += 2)
#pragma GCC unroll 4
      for (size_t v = 0; v < kVectors; ++v) {
        const int8x16_t codes = codesOf<kBits>(block + 16 * v, quad),
                        next = codesOf<kBits>(block + 16 * v, quad + 1);
        int8_t* const to = out + 64 * quad;
        vst1q_s8(to + (kPairs ? 32 * v : 16 * v), kPairs ? pairQuads<false>(codes, next) : codes);
        vst1q_s8(to + (kPairs ? 32 * v + 16 : 64 + 16 * v), kPairs ? pairQuads<true>(codes, next) : next);
      }
    out += 64 * kQuads;
  }
}

using UnpackSegment = void (*)(const uint8_t*, const Segment&, int8_t*, const WeightStream&);

template <bool kPairs, size_t... kBits>
constexpr std::array<UnpackSegment, 9> unpackByBits(std::index_sequence<kBits...>) {
  return {nullptr, unpackSegment<kBits + 1, kPairs>...};
}

/// A quad of kCount tokens; what else is in the register is zero.
template <size_t kCount>
SLIM_DOT_INLINE int8x16_t loadTokens(const int8_t* x) {
  if constexpr (kCount == 4) return vld1q_s8(x);
  int32_t words[4] = {};
  std::memcpy(words, x, 4 * kCount);
  return vreinterpretq_s8_s32(int32x4_t{words[0], words[1], words[2], words[3]});
}

/// dots = codes · activations over a segment, for kCount tokens.
template <size_t kCount>
SLIM_DOT_INLINE void multiplyCodes(const UnpackedSegment& s, const int8_t* x, size_t xStride,
                                   int32x4_t (&dots)[kCount][kVectors]) {
#pragma GCC unroll 4
  for (size_t t = 0; t < kCount; ++t)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) dots[t][v] = vdupq_n_s32(0);
  const int8_t* codes = s.codes;
  for (size_t quad = 0; quad < s.quads; ++quad, codes += 64, x += xStride) {
    const int8x16_t activations = loadTokens<kCount>(x);
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const int8x16_t code = vld1q_s8(codes + 16 * v);
#pragma GCC unroll 4
      for (size_t t = 0; t < kCount; ++t) dots[t][v] = addQuad(dots[t][v], code, activations, t);
    }
  }
}

/// The same of codes in pairs. smmla's sums are [row pair][2 rows][2 tokens].
template <size_t kCount>
SLIM_I8MM_INLINE void multiplyPairs(const UnpackedSegment& s, const int8_t* x, size_t xStride,
                                    int32x4_t (&dots)[kCount][kVectors]) {
  constexpr size_t kTokenPairs = (kCount + 1) / 2, kRowPairs = kRows / 2;
  int32x4_t sums[kTokenPairs][kRowPairs];
#pragma GCC unroll 2
  for (size_t pair = 0; pair < kTokenPairs; ++pair)
#pragma GCC unroll 8
    for (size_t r = 0; r < kRowPairs; ++r) sums[pair][r] = vdupq_n_s32(0);
  const int8_t* codes = s.codes;
  for (size_t quad = 0; quad < s.quads; quad += 2, codes += 128, x += 2 * xStride) {
    const int8x16_t first = loadTokens<kCount>(x), next = loadTokens<kCount>(x + xStride);
    const int8x16_t activations[2] = {pairQuads<false>(first, next), pairQuads<true>(first, next)};
#pragma GCC unroll 8
    for (size_t r = 0; r < kRowPairs; ++r) {
      const int8x16_t code = vld1q_s8(codes + 16 * r);
#pragma GCC unroll 2
      for (size_t pair = 0; pair < kTokenPairs; ++pair)
        sums[pair][r] = vmmlaq_s32(sums[pair][r], code, activations[pair]);
    }
  }
#pragma GCC unroll 4
  for (size_t t = 0; t < kCount; ++t)
#pragma GCC unroll 4
    for (size_t v = 0; v < kVectors; ++v) {
      const int32x4_t a = sums[t / 2][2 * v], b = sums[t / 2][2 * v + 1];
      dots[t][v] = t % 2 ? vuzp2q_s32(a, b) : vuzp1q_s32(a, b);
    }
}

// totals [token][16 rows] += the unpacked segments, for kCount tokens of a panel: with sdot and with smmla.

template <size_t kCount>
SLIM_DOT void addUnpacked(const Unpacked& unpacked, const Panel& panel, size_t first, float* totals) {
  for (const UnpackedSegment* s = unpacked.segments; s < unpacked.segments + unpacked.count; ++s) {
    int32x4_t dots[kCount][kVectors];
    multiplyCodes(*s, panel.values + s->column * panel.tokens + 4 * first, 4 * panel.tokens, dots);
    const size_t at = s->segment * panel.tokens + first;
    addTotals(dots, s->meta, s->bits, panel.scales + at, panel.sums + at, totals);
  }
}

template <size_t kCount>
SLIM_I8MM void addUnpackedPairs(const Unpacked& unpacked, const Panel& panel, size_t first, float* totals) {
  for (const UnpackedSegment* s = unpacked.segments; s < unpacked.segments + unpacked.count; ++s) {
    int32x4_t dots[kCount][kVectors];
    multiplyPairs(*s, panel.values + s->column * panel.tokens + 4 * first, 4 * panel.tokens, dots);
    const size_t at = s->segment * panel.tokens + first;
    addTotals(dots, s->meta, s->bits, panel.scales + at, panel.sums + at, totals);
  }
}

struct BatchKernels {
  std::array<UnpackSegment, 9> unpack;                                               // [bits]
  void (*add[kTokens])(const Unpacked&, const Panel&, size_t first, float* totals);  // [tokens − 1]
};
constexpr BatchKernels kDot = {unpackByBits<false>(std::make_index_sequence<8>()),
                               {addUnpacked<1>, addUnpacked<2>, addUnpacked<3>, addUnpacked<4>}};
constexpr BatchKernels kI8mm = {
    unpackByBits<true>(std::make_index_sequence<8>()),
    {addUnpackedPairs<1>, addUnpackedPairs<2>, addUnpackedPairs<3>, addUnpackedPairs<4>}};

/// A tile and panels [firstPanel, lastPanel).
void multiplyBatch(const BatchKernels& kernels, const PackedProduct& product, const PackedActivations& x,
                   size_t tile, size_t firstPanel, size_t lastPanel, const WeightStream& stream) {
  const InterleavedMatrix& matrix = *product.matrix;
  alignas(64) float totals[kBatchPanels * PackedActivations::kPanelTokens * kRows];
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
        kernels.add[count - 1](unpacked, panel, first,
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
      int8_t* const codes = unpacked.codes + unpacked.depth * kRows;
      unpacked.segments[unpacked.count++] = {data + s.meta, codes, depth / 4, s.column, s.segment, run.bits};
      kernels.unpack[run.bits](data, s, codes, stream);
      unpacked.depth += depth;
    }
  }
  useUnpacked();
  for (size_t t = 0; t < tokens; ++t) storeRows(product, firstToken + t, tile * kRows, totals + t * kRows);
}

template <const BatchKernels& kKernels>
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
      multiplyBatch(kKernels, product, x, tile, b * x.panels() / batches, (b + 1) * x.panels() / batches,
                    kept);
  }
}

}  // namespace

const PackedKernels kPackedNeon = {quantize, multiply<kDot>};
const PackedKernels kPackedNeonI8mm = {quantize, multiply<kI8mm>};

}  // namespace slim
#endif
