// Packed products with NEON against a reference that goes by the definition, bit for bit, and against the
// portable kernels, within the rounding of their additions. Run by scripts/check-neon.sh under an emulator;
// the argument is what the processor must be found to have: portable, neon or neon+i8mm.
#include "cpu/packed_gemm.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <string>
#include <vector>

#include "core/half.h"
#include "core/split_mix.h"
#include "cpu/features.h"
#include "cpu/packed_kernels.h"
#include "quant/packed_matrix.h"

namespace {

using namespace slim;

using Input = std::function<float(SplitMix64&, size_t index)>;

enum class Codes { Random, Lowest, Highest };

struct Problem {
  size_t rows, cols, groupSize, tokens;
  std::vector<uint8_t> bits;  // of the groups, repeated
  Codes codes = Codes::Random;
  bool bias = false, accumulate = false;
};

float uniform(SplitMix64& random) { return float(random.next() >> 40) * 0x1p-23f - 1; }

const Input kUniform = [](SplitMix64& random, size_t) { return uniform(random); };

int failures = 0;

void fail(const Problem& p, const std::string& what) {
  std::string bits;
  for (uint8_t b : p.bits) bits.append(" ").append(std::to_string(b));
  std::printf("FAILED: %s: %zu x %zu in %zu, %zu tokens, bits%s\n", what.c_str(), p.rows, p.cols, p.groupSize,
              p.tokens, bits.c_str());
  ++failures;
}

GroupCodes randomCodes(const Problem& p, SplitMix64& random) {
  GroupCodes g;
  g.rows = p.rows, g.cols = p.cols, g.groupSize = p.groupSize;
  const size_t groups = (p.cols + p.groupSize - 1) / p.groupSize;
  for (size_t i = 0; i < groups; ++i) g.groupBits.push_back(p.bits[i % p.bits.size()]);
  const auto code = [&](unsigned bits) {
    const unsigned highest = (1u << bits) - 1;
    return uint8_t(p.codes == Codes::Random   ? random.next() & highest
                   : p.codes == Codes::Lowest ? 0
                                              : highest);
  };
  for (size_t r = 0; r < p.rows; ++r)
    for (size_t c = 0; c < p.cols; ++c) g.codes.push_back(code(g.groupBits[c / p.groupSize]));
  for (size_t i = 0; i < groups * p.rows; ++i) {
    const unsigned highest = (1u << g.groupBits[i / p.rows]) - 1;
    g.scales.push_back(floatToHalf(0.01f * uniform(random)));
    g.means.push_back(floatToHalf(0.02f * uniform(random)));
    // Zero points at the other end let the sums be as large as they can.
    g.zeros.push_back(uint8_t(p.codes == Codes::Random   ? random.next() & highest
                              : p.codes == Codes::Lowest ? highest
                                                         : 0));
  }
  return g;
}

/// Where a token's quad lies in its panel.
struct TokenInput {
  PackedActivations::Panel panel;
  size_t token;  // of the panel
  int at(size_t paddedColumn) const {
    return panel.values[(paddedColumn / 4 * panel.tokens + token) * 4 + paddedColumn % 4];
  }
};

struct Expected {
  float value, magnitude;  // magnitude: of what was added up
  size_t additions;
};

// A row's segments from the narrowest codes to the widest, as in cpu/packed_gemm.h: the integer sum is exact,
// the float operations are those of AVX2 and AVX-512.
Expected reference(const PackedMatrix& matrix, const Segments& cut, const std::vector<size_t>& order,
                   size_t row, const TokenInput& x) {
  Expected sum = {0, 0, 1};
  for (size_t s : order) {
    const size_t group = cut.group(s), width = cut.width(s);
    const unsigned bits = matrix.groupBits()->data()[group];
    uint8_t codes[Segments::kMost];
    matrix.readCodes(group, row, cut.begin(s) - group * cut.groupSize, width, codes);
    int dot = 0;
    for (size_t i = 0; i < width; ++i) dot += codes[i] * x.at(cut.paddedBegin(s) + i);
    const auto of = matrix.rowOfGroup(group, row);
    const size_t at = s * x.panel.tokens + x.token;
    const float xScale = x.panel.scales[at], xSum = x.panel.sums[at];
    float scale = halfToFloat(of.scale), zero = of.zero;
    if (bits == 1) scale += scale, zero = 0.5f;
    const float centred = (float(dot) - zero * xSum) * xScale;
    sum.value = std::fma(centred, scale, sum.value);
    sum.magnitude += std::fabs(centred * scale);
    if (bits == 1) {
      const float mean = halfToFloat(of.mean);
      sum.value = std::fma(xSum * xScale, mean, sum.value);
      sum.magnitude += std::fabs(xSum * xScale * mean);
    }
    sum.additions += 2;
  }
  return sum;
}

bool same(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b) || (std::isnan(a) && std::isnan(b));
}

bool sameBytes(const void* a, const void* b, size_t bytes) { return std::memcmp(a, b, bytes) == 0; }

bool sameInputs(const PackedActivations& a, const PackedActivations& b) {
  const size_t segments = a.cut().count(), columns = a.cut().paddedCols();
  for (size_t i = 0; i < a.panels(); ++i) {
    const auto left = a.panel(i), right = b.panel(i);
    if (left.tokens != right.tokens || !sameBytes(left.values, right.values, left.tokens * columns))
      return false;
    for (size_t j = 0; j < left.tokens * segments; ++j)
      if (!same(left.scales[j], right.scales[j]) || !same(left.sums[j], right.sums[j])) return false;
  }
  return true;
}

struct Named {
  const char* name;
  const PackedKernels* kernels;
};

void check(const Problem& p, const std::vector<Named>& named, ThreadPool& pool,
           const Input& input = kUniform) {
  static uint32_t seed = 0;
  SplitMix64 random(++seed);
  std::shared_ptr<PackedMatrix> matrix;
  std::shared_ptr<const InterleavedMatrix> interleaved;
  const CancelFlag cancelled = false;
  if (Status s = PackedMatrix::pack(randomCodes(p, random), matrix); !s.ok()) return fail(p, s.message);
  if (Status s = InterleavedMatrix::make(*matrix, pool, cancelled, interleaved); !s.ok())
    return fail(p, s.message);
  const Segments cut = interleaved->cut();
  std::vector<float> x(p.tokens * p.cols), bias(p.rows);
  for (size_t i = 0; i < x.size(); ++i) x[i] = input(random, i);
  for (float& b : bias) b = uniform(random);

  const std::string best = instructionSetName(supportedInstructionSets().back());
  PackedActivations activations, portable;
  if (!setInstructionSet("portable").ok()) return fail(p, "no portable set");
  const auto round = [&](PackedActivations& into) {
    into.reserve(p.tokens, cut);
    for (size_t panel = 0; panel < into.panels(); ++panel) into.round(panel, x.data(), p.cols);
  };
  round(portable);
  if (!setInstructionSet(best).ok()) return fail(p, "no set " + best);
  round(activations);
  if (!sameInputs(activations, portable)) return fail(p, "int8 inputs differ from the portable ones");

  // One float more a row than there are outputs: it must stay as it is.
  const size_t stride = p.rows + 1;
  const float before = 0.25f;
  const auto product = [&](std::vector<float>& y) {
    y.assign(p.tokens * stride, before);
    return PackedProduct{interleaved.get(), y.data(), stride, p.accumulate, p.bias ? bias.data() : nullptr};
  };
  std::vector<float> oracle, together;
  const WeightStream stream{interleaved->end(), interleaved->end(), activations.panels() == 1};
  kPackedPortable.multiply(product(oracle), activations, 0, interleaved->tiles(), stream);
  const PackedProduct all[] = {product(together)};
  multiplyPacked(pool, p.tokens, x.data(), p.cols, all, activations, all);
  std::vector<std::vector<float>> outputs(named.size());
  for (size_t k = 0; k < named.size(); ++k)
    named[k].kernels->multiply(product(outputs[k]), activations, 0, interleaved->tiles(), stream);

  std::vector<size_t> order(cut.count());
  std::iota(order.begin(), order.end(), size_t(0));
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return matrix->groupBits()->data()[cut.group(a)] < matrix->groupBits()->data()[cut.group(b)];
  });
  for (size_t panel = 0, t = 0; panel < activations.panels(); ++panel)
    for (size_t token = 0; token < activations.panel(panel).tokens; ++token, ++t)
      for (size_t r = 0; r <= p.rows; ++r) {
        const std::string where = "token " + std::to_string(t) + ", row " + std::to_string(r);
        const size_t at = t * stride + r;
        if (r == p.rows) {
          for (const auto& y : outputs)
            if (y[at] != before) return fail(p, "wrote past the rows, " + where);
          continue;
        }
        const Expected e = reference(*matrix, cut, order, r, {activations.panel(panel), token});
        const float sum = p.bias ? e.value + bias[r] : e.value, expected = p.accumulate ? before + sum : sum,
                    bound = 0x1p-23f * float(e.additions + 2) * (e.magnitude + 2) + 0x1p-126f;
        if (std::isfinite(expected) ? !(std::fabs(oracle[at] - expected) <= bound)
                                    : std::isfinite(oracle[at]))
          return fail(p, "portable beyond the bound, " + where);
        for (size_t k = 0; k < named.size(); ++k)
          if (!same(outputs[k][at], expected))
            return fail(p, named[k].name + (" gives " + std::to_string(outputs[k][at])) + " in place of " +
                               std::to_string(expected) + ", " + where);
        if (!named.empty() && !same(together[at], expected)) return fail(p, "multiplyPacked, " + where);
      }
}

const std::vector<uint8_t> kMixed = {2, 3, 1, 4, 2, 8, 5, 1, 7, 6};

int checkAll(const std::vector<Named>& named) {
  int problems = 0;
  ThreadPool pool(2);
  const auto run = [&](const Problem& p, const Input& input = kUniform) {
    ++problems;
    check(p, named, pool, input);
  };
  // Every width alone and all together, in groups of every size, with a short last one.
  for (size_t groupSize : {32, 64, 128, 256, 512, 40})
    for (unsigned bits = 1; bits <= 9; ++bits)
      for (size_t tokens : {1, 2, 3, 4, 6, 13})
        run({17, groupSize + 37, groupSize, tokens, bits == 9 ? kMixed : std::vector{uint8_t(bits)}});
  // Every number of rows, every number of tokens, more than two batches of panels.
  for (size_t rows = 1; rows <= 67; ++rows)
    run({rows, 300, 32, 1 + rows % 8, kMixed, Codes::Random, rows % 2 == 0, rows % 3 == 0});
  for (size_t tokens = 1; tokens <= 40; ++tokens) run({33, 330, 32, tokens, kMixed});
  run({19, 96, 32, 500, kMixed});

  const float infinity = std::numeric_limits<float>::infinity();
  const Input extremes[] = {
      [](SplitMix64&, size_t) { return 0.0f; },
      [](SplitMix64&, size_t) { return -0.37f; },
      [](SplitMix64&, size_t i) { return i & 64 ? -1.0f : 1.0f; },
      [](SplitMix64& random, size_t i) { return i % 97 == 3 ? 3e30f : uniform(random); },
      [](SplitMix64& random, size_t) { return uniform(random) * 1e-41f; },
      [](SplitMix64& random, size_t i) { return uniform(random) * (i / 32 % 2 ? 1e-35f : 1e33f); },
      [=](SplitMix64& random, size_t i) { return i == 150 ? infinity : uniform(random); },
      [](SplitMix64& random, size_t i) { return i == 40 ? std::nanf("") : uniform(random); },
  };
  for (const Input& input : extremes)
    for (Codes codes : {Codes::Random, Codes::Lowest, Codes::Highest})
      for (size_t tokens : {1, 3, 7})
        for (const auto& bits : {kMixed, {1}, {2}, {3}, {4}, {7}, {8}})
          run({18, 520, 256, tokens, bits, codes}, input);
  return problems;
}

}  // namespace

int main(int argc, char** argv) {
  const std::string wanted = argc > 1 ? argv[1] : "";
  const bool neon = supportedInstructionSets().back() == InstructionSet::Neon;
  const std::string found = neon ? hasI8mm() ? "neon+i8mm" : "neon" : "portable";
  if (found != wanted) {
    std::printf("FAILED: expected a processor with %s, found %s\n", wanted.c_str(), found.c_str());
    return 1;
  }
  std::vector<Named> named;
  if (neon) named.push_back({"sdot", &kPackedNeon});
  if (hasI8mm()) named.push_back({"smmla", &kPackedNeonI8mm});
  const int problems = checkAll(named);
  std::string names;
  for (const Named& kernels : named) names += std::string(kernels.name) + ", ";
  std::printf("%s: %d problems with %sportable: %d failed\n", found.c_str(), problems, names.c_str(),
              failures);
  return failures == 0 ? 0 : 1;
}
