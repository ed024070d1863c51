// The packed kernels with AVX-512 VNNI: vpdpbusd adds the four products of a quad's codes (u8) and
// activations (s8) to 16 rows' int32 sums at once.
#if defined(__x86_64__)
// GCC 12's own intrinsics read a register before it is set, on purpose (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#include "cpu/packed_kernels.h"
#include "cpu/weight_prefetch.h"

#define SLIM_VNNI __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")))
#define SLIM_VNNI_INLINE SLIM_VNNI inline __attribute__((always_inline))

namespace slim {
namespace {

constexpr size_t kRows = InterleavedMatrix::kTileRows, kQuads = InterleavedMatrix::kQuads;
constexpr size_t kPanel = PackedActivations::kPanelTokens;
using Panel = PackedActivations::Panel;
using Segment = InterleavedMatrix::Segment;

/// Of 16 lanes from i on, those before count.
inline __mmask16 lanesBefore(size_t count, size_t i) {
  return i + 16 <= count ? __mmask16(0xffff) : __mmask16((1u << (count - std::min(i, count))) - 1);
}

SLIM_VNNI void quantize(const float* x, size_t count, int8_t* q, float& scale, float& sum) {
  const size_t padded = Segments::padded(count);
  // Magnitudes in the order of their bits, in which infinities and NaNs come last.
  const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
  __m512i most = _mm512_setzero_si512();
  for (size_t i = 0; i < padded; i += 16) {
    const __m512i bits = _mm512_maskz_loadu_epi32(lanesBefore(count, i), x + i);
    most = _mm512_max_epu32(most, _mm512_and_si512(bits, magnitude));
  }
  const uint32_t mostBits = _mm512_reduce_max_epu32(most);
  if (mostBits >= 0x7f800000u) {
    std::memset(q, 0, padded);
    scale = std::numeric_limits<float>::quiet_NaN();
    sum = 0;
    return;
  }
  const ActivationScale s = activationScale(std::bit_cast<float>(mostBits));
  const __m512 lift = _mm512_set1_ps(s.lift), inverse = _mm512_set1_ps(s.inverse);
  __m512i total = _mm512_setzero_si512();
  for (size_t i = 0; i < padded; i += 16) {
    const __m512 value = _mm512_maskz_loadu_ps(lanesBefore(count, i), x + i);
    const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(_mm512_mul_ps(value, lift), inverse));
    total = _mm512_add_epi32(total, level);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(q + i), _mm512_cvtepi32_epi8(level));
  }
  scale = s.scale;
  sum = float(_mm512_reduce_add_epi32(total));
}

/// In a register: GCC would load the line again as an operand of every instruction that uses it, and loads
/// (half of them broadcasts of activations) are the limit.
SLIM_VNNI_INLINE __m512i loadLine(const uint8_t* line) {
  __m512i all = _mm512_load_si512(line);
  asm("" : "+v"(all));
  return all;
}

/// Adds a plane of kWidth bits to the codes of a block, above their kShift lowest bits; returns what follows
/// it. The shifts move bits between neighbouring bytes; the mask drops those.
template <unsigned kWidth, unsigned kShift>
SLIM_VNNI_INLINE const uint8_t* addPlane(const uint8_t* lines, __m512i (&codes)[kQuads]) {
  constexpr unsigned kFields = 8 / kWidth;
  const __m512i mask = _mm512_set1_epi8(char(((1u << kWidth) - 1) << kShift));
#pragma GCC unroll 8
  for (unsigned line = 0; line < kWidth; ++line) {
    const __m512i all = loadLine(lines + 64 * line);
#pragma GCC unroll 8
    for (unsigned field = 0; field < kFields; ++field) {
      const unsigned from = field * kWidth;
      const __m512i moved = from == kShift  ? all
                            : from > kShift ? _mm512_srli_epi16(all, from - kShift)
                                            : _mm512_slli_epi16(all, kShift - from);
      __m512i& code = codes[line * kFields + field];
      constexpr int kOrAnd = 0xf8;  // a | (b & c)
      code =
          kShift == 0 ? _mm512_and_si512(moved, mask) : _mm512_ternarylogic_epi32(code, moved, mask, kOrAnd);
    }
  }
  return lines + 64 * kWidth;
}

template <unsigned kBits>
SLIM_VNNI_INLINE void unpackBlock(const uint8_t* block, __m512i (&codes)[kQuads]) {
  if constexpr (kBits == 8) {
#pragma GCC unroll 8
    for (unsigned quad = 0; quad < kQuads; ++quad) codes[quad] = _mm512_load_si512(block + 64 * quad);
  } else {
    if constexpr (kBits & 4) block = addPlane<4, 0>(block, codes);
    if constexpr (kBits & 2) block = addPlane<2, kBits & 4>(block, codes);
    if constexpr (kBits & 1) addPlane<1, kBits & 6>(block, codes);
  }
}

/// Of 16 rows: a code's weight is scale · (code − zero) + mean. One bit, mean ± scale, is scale · 2 (code −
/// ½)
/// + mean.
struct RowScales {
  __m512 scale, zero, mean;
};

SLIM_VNNI_INLINE __m512 loadHalves(const uint8_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

template <bool kOneBit>
SLIM_VNNI_INLINE RowScales loadRowScales(const uint8_t* meta) {
  const __m512 scale = loadHalves(meta);
  if constexpr (kOneBit) return {_mm512_add_ps(scale, scale), _mm512_set1_ps(0.5f), loadHalves(meta + 32)};
  const __m128i zeros = _mm_loadu_si128(reinterpret_cast<const __m128i*>(meta + 32));
  return {scale, _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(zeros)), _mm512_setzero_ps()};
}

/// total + what the codes of a segment add for a token: `dots` are their products with int8 activations.
SLIM_VNNI_INLINE __m512 addCodes(__m512 total, __m512i dots, __m512 rowScale, __m512 rowZero, float xScale,
                                 float xSum) {
  const __m512 centred = _mm512_fnmadd_ps(rowZero, _mm512_set1_ps(xSum), _mm512_cvtepi32_ps(dots));  // exact
  return _mm512_fmadd_ps(_mm512_mul_ps(centred, _mm512_set1_ps(xScale)), rowScale, total);
}

/// total + what the means of a 1-bit segment add.
SLIM_VNNI_INLINE __m512 addMeans(__m512 total, __m512 rowMean, float xScale, float xSum) {
  return _mm512_fmadd_ps(_mm512_set1_ps(xSum * xScale), rowMean, total);
}

SLIM_VNNI_INLINE __m512i broadcastQuad(const int8_t* quad) {
  int32_t word;
  std::memcpy(&word, quad, 4);
  return _mm512_set1_epi32(word);
}

/// dots += codes · a token's quad of activations, which every lane loads. In assembly: of the intrinsic GCC
/// 12 makes a copy of the sums before and after.
SLIM_VNNI_INLINE __m512i addQuad(__m512i dots, __m512i codes, const int8_t* quad) {
  using Quad = const int8_t[4];
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(dots) : "v"(codes), "m"(*reinterpret_cast<Quad*>(quad)));
  return dots;
}

/// dots += codes · activations already in a register.
SLIM_VNNI_INLINE __m512i addQuad(__m512i dots, __m512i codes, __m512i activations) {
  asm("vpdpbusd %2, %1, %0" : "+v"(dots) : "v"(codes), "v"(activations));
  return dots;
}

SLIM_VNNI_INLINE void storeRows(const PackedProduct& product, size_t token, size_t firstRow, __m512 value) {
  const __mmask16 mask = lanesBefore(product.matrix->rows(), firstRow);
  if (product.bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, product.bias + firstRow));
  float* y = product.y + token * product.yStride + firstRow;
  if (product.accumulate) value = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), value);
  _mm512_mask_storeu_ps(y, mask, value);
}

// ---- Few tokens: the codes go from memory through registers.

constexpr size_t kFewTokens = 8;       // of a panel
constexpr size_t kFewAltogether = 16;  // in panels of kFewTokens: unpacking twice is still the lesser cost

/// One token: a plane that is alone is masked where it lies. Of the quads of a line each has its own sum
/// then, 2^from times too large, which saves the shifts: two instructions a quad in place of three.
template <unsigned kBits>
SLIM_VNNI_INLINE __m512i multiplyInPlace(const uint8_t* block, size_t blocks, const int8_t* x) {
  constexpr unsigned kFields = 8 / kBits;
  __m512i dots[kQuads];
#pragma GCC unroll 8
  for (auto& dot : dots) dot = _mm512_setzero_si512();
  for (size_t b = 0; b < blocks; ++b, block += InterleavedMatrix::blockBytes(kBits), x += 4 * kQuads) {
#pragma GCC unroll 8
    for (unsigned line = 0; line < kBits; ++line) {
      const __m512i all = loadLine(block + 64 * line);
#pragma GCC unroll 8
      for (unsigned field = 0; field < kFields; ++field) {
        const unsigned quad = line * kFields + field;
        const __m512i mask = _mm512_set1_epi8(char(((1u << kBits) - 1) << (field * kBits)));
        dots[quad] = addQuad(dots[quad], _mm512_and_si512(all, mask), x + 4 * quad);
      }
    }
  }
#pragma GCC unroll 8
  for (unsigned quad = 0; quad < kQuads; ++quad)
    dots[quad] = _mm512_srai_epi32(dots[quad], quad % kFields * kBits);
#pragma GCC unroll 3
  for (unsigned step = kQuads / 2; step; step /= 2)
#pragma GCC unroll 4
    for (unsigned quad = 0; quad < step; ++quad) dots[quad] = _mm512_add_epi32(dots[quad], dots[quad + step]);
  return dots[0];
}

/// The same for several tokens, or with codes put together from planes.
template <unsigned kBits, size_t kTokens>
SLIM_VNNI_INLINE void multiplyUnpacked(const uint8_t* block, size_t blocks, const int8_t* x,
                                       __m512i (&dots)[kTokens]) {
  // vpdpbusd has a latency of four cycles, and two start in one: eight independent sums.
  constexpr size_t kChains = kTokens == 1 ? 8 : kTokens == 2 ? 4 : kTokens <= 4 ? 2 : 1;
  __m512i sums[kTokens][kChains];
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t)
#pragma GCC unroll 8
    for (size_t chain = 0; chain < kChains; ++chain) sums[t][chain] = _mm512_setzero_si512();
  for (size_t b = 0; b < blocks; ++b, block += InterleavedMatrix::blockBytes(kBits)) {
    __m512i codes[kQuads];
    unpackBlock<kBits>(block, codes);
#pragma GCC unroll 8
    for (size_t quad = 0; quad < kQuads; ++quad)
#pragma GCC unroll 8
      for (size_t t = 0; t < kTokens; ++t, x += 4)
        sums[t][quad % kChains] = _mm512_dpbusd_epi32(sums[t][quad % kChains], codes[quad], broadcastQuad(x));
  }
#pragma GCC unroll 8
  for (size_t t = 0; t < kTokens; ++t) {
    dots[t] = sums[t][0];
#pragma GCC unroll 8
    for (size_t chain = 1; chain < kChains; ++chain) dots[t] = _mm512_add_epi32(dots[t], sums[t][chain]);
  }
}

/// totals += the segments of a run of kBits, for one tile and kTokens tokens.
template <unsigned kBits, size_t kTokens>
SLIM_VNNI void addRun(const uint8_t* tile, const Segment* segments, size_t count, const Panel& panel,
                      const WeightStream& stream, float* totals) {
  __m512 total[kTokens];
  for (size_t t = 0; t < kTokens; ++t) total[t] = _mm512_load_ps(totals + t * kRows);
  for (const Segment* s = segments; s < segments + count; ++s) {
    const uint8_t* block = tile + s->codes;
    prefetchAhead(block, s->blocks * InterleavedMatrix::blockBytes(kBits), stream);
    const int8_t* x = panel.values + s->column * kTokens;
    __m512i dots[kTokens];
    if constexpr (kTokens == 1 && (kBits == 1 || kBits == 2 || kBits == 4))
      dots[0] = multiplyInPlace<kBits>(block, s->blocks, x);
    else
      multiplyUnpacked<kBits>(block, s->blocks, x, dots);
    const RowScales rows = loadRowScales<kBits == 1>(tile + s->meta);
#pragma GCC unroll 8
    for (size_t t = 0; t < kTokens; ++t) {
      const size_t at = s->segment * kTokens + t;
      total[t] = addCodes(total[t], dots[t], rows.scale, rows.zero, panel.scales[at], panel.sums[at]);
      if constexpr (kBits == 1) total[t] = addMeans(total[t], rows.mean, panel.scales[at], panel.sums[at]);
    }
  }
  for (size_t t = 0; t < kTokens; ++t) _mm512_store_ps(totals + t * kRows, total[t]);
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

SLIM_VNNI void multiplyFew(const PackedProduct& product, const Panel& panel, size_t tile,
                           const WeightStream& stream) {
  const InterleavedMatrix& matrix = *product.matrix;
  prefetchAhead(matrix.tile(tile), matrix.codesBegin(), stream);
  alignas(64) float totals[kFewTokens * kRows];
  for (size_t t = 0; t < panel.tokens; ++t) _mm512_store_ps(totals + t * kRows, _mm512_setzero_ps());
  for (const auto& run : matrix.runs())
    kAddRun[panel.tokens - 1][run.bits](matrix.tile(tile), matrix.segments().data() + run.first, run.count,
                                        panel, stream, totals);
  for (size_t t = 0; t < panel.tokens; ++t)
    storeRows(product, panel.firstToken + t, tile * kRows, _mm512_load_ps(totals + t * kRows));
}

// ---- More tokens: some segments of two tiles are unpacked into the first-level cache, and used for all of
// them.

constexpr size_t kPairTiles = 2;
constexpr size_t kDepth = 512;       // columns at a time: 16 KB of codes, beside 6 KB of a panel
constexpr size_t kBatchPanels = 20;  // whose sums, 30 KB, stay in the second-level cache

struct UnpackedSegment {
  alignas(64) float scale[kPairTiles][kRows], zero[kPairTiles][kRows], mean[kPairTiles][kRows];
  const uint8_t* codes;  // [tile][quad][16 rows][4], tiles kDepth columns apart
  size_t quads, column, segment;
  bool oneBit;
};

struct Unpacked {
  alignas(64) uint8_t codes[kPairTiles][kDepth * kRows];
  UnpackedSegment segments[kDepth / Segments::kUnit];
  size_t count = 0, depth = 0;
};

template <unsigned kBits>
SLIM_VNNI void unpackSegment(const uint8_t* tile, const Segment& s, uint8_t* out, float* scale, float* zero,
                             float* mean, const WeightStream& stream) {
  const uint8_t* block = tile + s.codes;
  prefetchAhead(block, s.blocks * InterleavedMatrix::blockBytes(kBits), stream);
  for (size_t b = 0; b < s.blocks; ++b, block += InterleavedMatrix::blockBytes(kBits)) {
    __m512i codes[kQuads];
    unpackBlock<kBits>(block, codes);
#pragma GCC unroll 8
    for (size_t quad = 0; quad < kQuads; ++quad, out += 64) _mm512_store_si512(out, codes[quad]);
  }
  const RowScales rows = loadRowScales<kBits == 1>(tile + s.meta);
  _mm512_store_ps(scale, rows.scale);
  _mm512_store_ps(zero, rows.zero);
  _mm512_store_ps(mean, rows.mean);
}

using UnpackSegment = void (*)(const uint8_t*, const Segment&, uint8_t*, float*, float*, float*,
                               const WeightStream&);

template <size_t... kBits>
constexpr std::array<UnpackSegment, 9> unpackByBits(std::index_sequence<kBits...>) {
  return {nullptr, unpackSegment<kBits + 1>...};
}
constexpr auto kUnpackSegment = unpackByBits(std::make_index_sequence<8>());

/// totals [token][tile][16 rows] += the unpacked segments, for a panel of kTokens tokens.
template <size_t kTiles, size_t kTokens>
SLIM_VNNI void addUnpacked(const Unpacked& unpacked, const Panel& panel, float* totals) {
  for (const UnpackedSegment* s = unpacked.segments; s < unpacked.segments + unpacked.count; ++s) {
    __m512i dots[kTokens][kTiles];
#pragma GCC unroll 12
    for (size_t t = 0; t < kTokens; ++t)
#pragma GCC unroll 2
      for (size_t tile = 0; tile < kTiles; ++tile) dots[t][tile] = _mm512_setzero_si512();
    const uint8_t* codes = s->codes;
    const int8_t* x = panel.values + s->column * kTokens;
    for (size_t quad = 0; quad < s->quads; ++quad, codes += 64, x += 4 * kTokens) {
      __m512i code[kTiles];
#pragma GCC unroll 2
      for (size_t tile = 0; tile < kTiles; ++tile)
        code[tile] = _mm512_load_si512(codes + tile * kDepth * kRows);
#pragma GCC unroll 12
      for (size_t t = 0; t < kTokens; ++t) {
        const __m512i activations = broadcastQuad(x + 4 * t);
#pragma GCC unroll 2
        for (size_t tile = 0; tile < kTiles; ++tile)
          // One broadcast serves both tiles: as an operand of each vpdpbusd there would be two loads, and
          // loads the limit (710 in place of 950 Gop/s in cache on a Zen 5).
          dots[t][tile] = addQuad(dots[t][tile], code[tile], activations);
      }
    }
    const float *scales = panel.scales + s->segment * kTokens, *sums = panel.sums + s->segment * kTokens;
#pragma GCC unroll 2
    for (size_t tile = 0; tile < kTiles; ++tile) {
      const __m512 scale = _mm512_load_ps(s->scale[tile]), zero = _mm512_load_ps(s->zero[tile]);
#pragma GCC unroll 12
      for (size_t t = 0; t < kTokens; ++t) {
        float* total = totals + (t * kPairTiles + tile) * kRows;
        _mm512_store_ps(total,
                        addCodes(_mm512_load_ps(total), dots[t][tile], scale, zero, scales[t], sums[t]));
      }
    }
    if (!s->oneBit) continue;
    for (size_t tile = 0; tile < kTiles; ++tile) {
      const __m512 mean = _mm512_load_ps(s->mean[tile]);
      for (size_t t = 0; t < kTokens; ++t) {
        float* total = totals + (t * kPairTiles + tile) * kRows;
        _mm512_store_ps(total, addMeans(_mm512_load_ps(total), mean, scales[t], sums[t]));
      }
    }
  }
}

using AddUnpacked = void (*)(const Unpacked&, const Panel&, float*);

template <size_t kTiles, size_t... kTokens>
constexpr std::array<AddUnpacked, kPanel> addUnpackedByTokens(std::index_sequence<kTokens...>) {
  return {addUnpacked<kTiles, kTokens + 1>...};
}
constexpr std::array kAddUnpacked = {addUnpackedByTokens<1>(std::make_index_sequence<kPanel>()),
                                     addUnpackedByTokens<2>(std::make_index_sequence<kPanel>())};

/// One or two tiles and panels [firstPanel, lastPanel).
SLIM_VNNI void multiplyBatch(const PackedProduct& product, const PackedActivations& x, size_t firstTile,
                             size_t tiles, size_t firstPanel, size_t lastPanel, const WeightStream& stream) {
  const InterleavedMatrix& matrix = *product.matrix;
  constexpr size_t kTokenFloats = kPairTiles * kRows;
  alignas(64) float totals[kBatchPanels * kPanel * kTokenFloats];
  const size_t firstToken = x.panel(firstPanel).firstToken;
  const size_t tokens = x.panel(lastPanel - 1).firstToken + x.panel(lastPanel - 1).tokens - firstToken;
  std::fill_n(totals, tokens * kTokenFloats, 0.0f);

  for (size_t tile = 0; tile < tiles; ++tile)
    prefetchAhead(matrix.tile(firstTile + tile), matrix.codesBegin(), stream);
  Unpacked unpacked;
  const auto useUnpacked = [&] {
    for (size_t p = firstPanel; p < lastPanel; ++p) {
      const Panel panel = x.panel(p);
      kAddUnpacked[tiles - 1][panel.tokens - 1](unpacked, panel,
                                                totals + (panel.firstToken - firstToken) * kTokenFloats);
    }
    unpacked.count = unpacked.depth = 0;
  };
  for (const auto& run : matrix.runs()) {
    for (size_t i = run.first; i < run.first + run.count; ++i) {
      const Segment& s = matrix.segments()[i];
      const size_t depth = s.blocks * Segments::kUnit;
      if (unpacked.depth + depth > kDepth) useUnpacked();
      UnpackedSegment& out = unpacked.segments[unpacked.count++];
      out.codes = unpacked.codes[0] + unpacked.depth * kRows;
      out.quads = depth / 4;
      out.column = s.column;
      out.segment = s.segment;
      out.oneBit = run.bits == 1;
      for (size_t tile = 0; tile < tiles; ++tile)
        kUnpackSegment[run.bits](matrix.tile(firstTile + tile), s,
                                 unpacked.codes[tile] + unpacked.depth * kRows, out.scale[tile],
                                 out.zero[tile], out.mean[tile], stream);
      unpacked.depth += depth;
    }
  }
  useUnpacked();
  for (size_t t = 0; t < tokens; ++t)
    for (size_t tile = 0; tile < tiles; ++tile)
      storeRows(product, firstToken + t, (firstTile + tile) * kRows,
                _mm512_load_ps(totals + t * kTokenFloats + tile * kRows));
}

void multiply(const PackedProduct& product, const PackedActivations& x, size_t first, size_t count,
              const WeightStream& stream) {
  if (x.panel(0).tokens <= kFewTokens && x.tokens() <= kFewAltogether) {
    for (size_t tile = first; tile < first + count; ++tile)
      for (size_t p = 0; p < x.panels(); ++p) multiplyFew(product, x.panel(p), tile, stream);
    return;
  }
  const WeightStream kept{stream.end, stream.next, false};  // beside what is unpacked
  const size_t batches = (x.panels() + kBatchPanels - 1) / kBatchPanels;
  for (size_t tile = first; tile < first + count; tile += kPairTiles)
    for (size_t b = 0; b < batches; ++b)
      multiplyBatch(product, x, tile, std::min(kPairTiles, first + count - tile), b * x.panels() / batches,
                    (b + 1) * x.panels() / batches, kept);
}

}  // namespace

const PackedKernels kPackedAvx512 = {quantize, multiply};

}  // namespace slim
#endif
