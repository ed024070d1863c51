#include "quant/gptq.h"

#include <algorithm>

#include "core/half.h"
#include "core/stopwatch.h"
#include "cpu/gemm.h"

namespace slim {
namespace {

// Columns whose errors are gathered before the columns after them are updated: the trailing product then
// reads and writes the weights once for 512 columns, not once for every group (the GPTQ paper's lazy
// batches).
constexpr size_t kLazyColumns = 512;

// Quantizes sixteen rows of a group column by column. With U: e_j = (w_j − q_j) / U_jj, then w_i −= e_j ·
// U_ji for the columns i > j of the group. `u` is the group's diagonal block of U, nullptr without
// compensation.
void quantizeLanes(float* lanes, size_t width, const GroupFit& fit, const float* u, size_t stride,
                   uint8_t* codes, float* errors) {
  for (size_t j = 0; j < width; ++j) {
    float* column = lanes + j * kLanes;
    float quantized[kLanes];
    fit.quantize(column, quantized, codes + j * kLanes);
    if (!u) continue;
    const float* row = u + j * stride;
    float* error = errors + j * kLanes;
    for (size_t r = 0; r < kLanes; ++r) error[r] = (column[r] - quantized[r]) / row[j];
    for (size_t i = j + 1; i < width; ++i)
      for (size_t r = 0; r < kLanes; ++r) lanes[i * kLanes + r] -= error[r] * row[i];
  }
}

}  // namespace

Status quantizeGroups(std::vector<float>& w, size_t rows, const Groups& groups,
                      const std::vector<uint8_t>& groupBits, const GroupQuantization& options,
                      ThreadPool& pool, const CancelFlag& cancelled, GroupCodes& out,
                      QuantizationSeconds& seconds) {
  const size_t cols = groups.cols, count = groups.count();
  const InverseFactor* factor = options.factor;
  const std::vector<float> ones(options.h ? 0 : cols, 1.0f);
  const float* h = options.h ? options.h : ones.data();
  const Stopwatch total;
  out.rows = rows;
  out.cols = cols;
  out.groupSize = groups.groupSize;
  out.groupBits = groupBits;
  out.codes.assign(rows * cols, 0);
  out.scales.assign(count * rows, 0);
  out.zeros.assign(count * rows, 0);
  out.means.assign(count * rows, 0);

  const size_t lazyGroups = std::max<size_t>(1, kLazyColumns / groups.groupSize);
  std::vector<float> errors(factor ? lazyGroups * groups.groupSize * rows : 0);  // [lazy columns, rows]
  std::vector<double> fitSeconds(size_t(pool.threads()));
  // W[:, from … to) −= E · U[batch … end), the lazy columns [batch, end) being quantized.
  const auto compensate = [&](size_t batch, size_t begin, size_t end, size_t from, size_t to) {
    if (from >= to) return;
    gemm(pool, rows, to - from, end - begin,
         Operand::columnMajor(errors.data() + (begin - batch) * rows, rows),
         Operand::columnMajor(factor->upper.data() + begin * cols + from, cols), w.data() + from, cols,
         {.alpha = -1, .accumulate = true});
  };

  for (size_t g = 0; g < count; ++g) {
    if (cancelled.load()) return Status::aborted();
    const size_t begin = groups.begin(g), end = groups.end(g), width = end - begin;
    const size_t batchGroup = g - g % lazyGroups, batch = groups.begin(batchGroup);
    const size_t batchEnd = groups.end(std::min(batchGroup + lazyGroups, count) - 1);
    const int bits = groupBits[g];
    const float* diagonalBlock = factor ? factor->upper.data() + begin * cols + begin : nullptr;
    pool.parallelFor((rows + kLanes - 1) / kLanes, [&](size_t tile, int thread) {
      const size_t firstRow = tile * kLanes, tileRows = std::min(kLanes, rows - firstRow);
      std::vector<float> lanes(width * kLanes), laneErrors(factor ? width * kLanes : 0);
      std::vector<uint8_t> codes(width * kLanes);
      loadLanes({w.data(), rows, groups}, g, firstRow, lanes.data());
      const Stopwatch fitting;
      GroupFit fit(options.quantizer, bits, lanes.data(), width, h + begin);
      fitSeconds[size_t(thread)] += fitting.seconds();
      if (!options.exactScales) fit.roundToStored();
      quantizeLanes(lanes.data(), width, fit, diagonalBlock, cols, codes.data(), laneErrors.data());

      for (size_t r = 0; r < tileRows; ++r) {
        const size_t row = firstRow + r, index = g * rows + row;
        for (size_t j = 0; j < width; ++j) out.codes[row * cols + begin + j] = codes[j * kLanes + r];
        out.scales[index] = floatToHalf(fit.scale[r]);
        if (bits == 1) {
          out.means[index] = floatToHalf(fit.offset[r]);
        } else {
          out.zeros[index] = uint8_t(fit.offset[r]);
        }
      }
      if (options.losses)
        for (size_t r = 0; r < tileRows; ++r)
          for (size_t j = 0; j < width; ++j) {
            const double e = laneErrors[j * kLanes + r];
            options.losses[firstRow + r] += e * e;
          }
      if (factor)
        for (size_t j = 0; j < width; ++j)
          std::copy_n(laneErrors.data() + j * kLanes, tileRows,
                      errors.data() + (begin - batch + j) * rows + firstRow);
    });
    if (!factor) continue;
    compensate(batch, begin, end, end, batchEnd);
    if (end == batchEnd) compensate(batch, batch, end, end, cols);
  }
  for (const double fit : fitSeconds) seconds.quantizer += fit / double(pool.threads());
  seconds.compensation += total.seconds() - seconds.quantizer;
  return Status::success();
}

}  // namespace slim
