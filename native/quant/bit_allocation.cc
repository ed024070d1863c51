#include "quant/bit_allocation.h"

#include <algorithm>
#include <numeric>

#include "cpu/gemm.h"
#include "quant/quantizer.h"
#include "quant/softmax_divergence.h"

namespace slim {
namespace {

// Min-max RTN of one group at a width, added `sign` times to out [rows, width] (row stride ldo). The scales
// stay float32: the search is the paper's, storing comes after it.
void addRounded(const GroupedWeight& weight, size_t group, int bits, float sign, ThreadPool& pool, float* out,
                size_t ldo) {
  const size_t width = weight.groups.width(group);
  pool.parallelFor((weight.rows + kLanes - 1) / kLanes, [&](size_t tile, int) {
    const size_t firstRow = tile * kLanes, rows = std::min(kLanes, weight.rows - firstRow);
    std::vector<float> lanes(width * kLanes);
    loadLanes(weight, group, firstRow, lanes.data());
    const GroupFit fit(Quantizer::MinMax, bits, lanes.data(), width, nullptr);
    for (size_t j = 0; j < width; ++j) {
      float quantized[kLanes];
      uint8_t codes[kLanes];
      fit.quantize(lanes.data() + j * kLanes, quantized, codes);
      for (size_t r = 0; r < rows; ++r) out[(firstRow + r) * ldo + j] += sign * quantized[r];
    }
  });
}

// body(t) for every token of a tile; a task takes eight, a token being less than a microsecond's work.
template <typename Body>
void forTokens(ThreadPool& pool, size_t tokens, const Body& body) {
  constexpr size_t kTask = 8;
  pool.parallelFor((tokens + kTask - 1) / kTask, [&](size_t task, int) {
    for (size_t t = task * kTask; t < std::min(tokens, (task + 1) * kTask); ++t) body(t);
  });
}

// What going to the next candidate adds to the outputs: X_low · D_lowᵀ + X_high · D_highᵀ, as one product
// over the columns of both groups.
struct Step {
  size_t low, high;
  std::vector<float> difference;  // [rows, width(low) + width(high)]
};

}  // namespace

AllocationSearch::AllocationSearch(const std::vector<double>& salience, int bits)
    : bits_(bits), order_(salience.size()) {
  std::iota(order_.begin(), order_.end(), 0);
  std::stable_sort(order_.begin(), order_.end(),
                   [&](size_t a, size_t b) { return salience[a] < salience[b]; });
  candidates_ = salience.size() < 4 || bits == 1 || bits == 8 ? 0 : salience.size() / 2 - 1;
}

Status AllocationSearch::check(size_t tokens) const {
  if (candidates_ == 0 || tokens > 0) return Status::success();
  return Status::invalidArgument("samples", "calibration inputs kept for the KL of the bit allocation",
                                 "none", "Make the Hessian with keepEvery of 1 or more");
}

void AllocationSearch::choose(const std::vector<double>& divergences, double sequences,
                              BitAllocation& out) const {
  out.groupBits.assign(order_.size(), uint8_t(bits_));
  out.kl.clear();
  if (candidates_ == 0) return;
  const size_t tokens = divergences.size() / candidates_;
  size_t best = 0;
  for (size_t i = 0; i < candidates_; ++i) {
    const double* perToken = divergences.data() + i * tokens;
    out.kl.push_back(std::accumulate(perToken, perToken + tokens, 0.0) / sequences);
    if (out.kl[i] < out.kl[best]) best = i;
  }
  for (size_t i = 0; i <= best; ++i) {
    out.groupBits[low(i)] = uint8_t(bits_ - 1);
    out.groupBits[high(i)] = uint8_t(bits_ + 1);
  }
}

Status allocateBits(const GroupedWeight& weight, const Samples& samples, const std::vector<double>& salience,
                    int bits, ThreadPool& pool, const CancelFlag& cancelled, BitAllocation& out) {
  const Groups& groups = weight.groups;
  const size_t n = groups.count(), rows = weight.rows, cols = weight.cols();
  const AllocationSearch search(salience, bits);
  const size_t candidates = search.candidates();
  SLIM_RETURN_IF_ERROR(search.check(samples.tokens));
  if (candidates == 0) {
    search.choose({}, samples.sequences, out);
    return Status::success();
  }

  // The first candidate's weights, and the steps to the others.
  std::vector<float> first(rows * cols);
  for (size_t g = 0; g < n; ++g) {
    const int width = g == search.low(0) ? bits - 1 : g == search.high(0) ? bits + 1 : bits;
    addRounded(weight, g, width, 1, pool, first.data() + groups.begin(g), cols);
  }
  std::vector<Step> steps;
  for (size_t i = 1; i < candidates; ++i) {
    Step step{search.low(i), search.high(i), {}};
    const size_t lowWidth = groups.width(step.low), width = lowWidth + groups.width(step.high);
    step.difference.resize(rows * width);
    addRounded(weight, step.low, bits - 1, 1, pool, step.difference.data(), width);
    addRounded(weight, step.low, bits, -1, pool, step.difference.data(), width);
    addRounded(weight, step.high, bits + 1, 1, pool, step.difference.data() + lowWidth, width);
    addRounded(weight, step.high, bits, -1, pool, step.difference.data() + lowWidth, width);
    steps.push_back(std::move(step));
  }

  // Tokens in tiles: two buffers [tile, rows] of at most 16 MiB each.
  const size_t tile = std::clamp<size_t>((size_t(4) << 20) / rows, 16, 512);
  const SoftmaxKernels& softmax = softmaxKernels();
  std::vector<float> original(tile * rows), outputs(tile * rows);
  std::vector<float> inputs(tile * 2 * groups.groupSize);
  std::vector<double> divergence(candidates * samples.tokens);
  for (size_t begin = 0; begin < samples.tokens; begin += tile) {
    if (cancelled.load()) return Status::aborted();
    const size_t tokens = std::min(tile, samples.tokens - begin);
    const float* x = samples.data + begin * cols;
    const Operand allInputs = Operand::rowMajor(x, cols);
    gemm(pool, tokens, rows, cols, allInputs, Operand::rowMajor(weight.data, cols), original.data(), rows);
    gemm(pool, tokens, rows, cols, allInputs, Operand::rowMajor(first.data(), cols), outputs.data(), rows);
    forTokens(pool, tokens, [&](size_t t) {
      softmax.logProbabilities(original.data() + t * rows, rows, original.data() + t * rows);
    });
    for (size_t i = 0; i < candidates; ++i) {
      if (cancelled.load()) return Status::aborted();
      if (i > 0) {
        const Step& step = steps[i - 1];
        const size_t lowWidth = groups.width(step.low), width = lowWidth + groups.width(step.high);
        for (size_t t = 0; t < tokens; ++t) {
          const float* row = x + t * cols;
          std::copy_n(row + groups.begin(step.low), lowWidth, inputs.data() + t * width);
          std::copy_n(row + groups.begin(step.high), width - lowWidth, inputs.data() + t * width + lowWidth);
        }
        gemm(pool, tokens, rows, width, Operand::rowMajor(inputs.data(), width),
             Operand::rowMajor(step.difference.data(), width), outputs.data(), rows, {.accumulate = true});
      }
      forTokens(pool, tokens, [&](size_t t) {
        divergence[i * samples.tokens + begin + t] =
            softmax.divergence(outputs.data() + t * rows, original.data() + t * rows, rows);
      });
    }
  }

  search.choose(divergence, samples.sequences, out);
  return Status::success();
}

}  // namespace slim
