#include "cuda/group_errors.h"

#include "cuda/group_quantization.h"
#include "cuda/kernels/quantization_arguments.h"
#include "cuda/matrix_operations.h"
#include "quant/quantize_linear.h"

namespace slim::cuda {
namespace {

class ErrorMeasurement {
 public:
  ErrorMeasurement(Device& device, size_t rows, const Groups& groups, const GroupErrorsOptions& options,
                   const CancelFlag& cancelled)
      : device_(device), rows_(rows), groups_(groups), options_(options), cancelled_(cancelled) {}

  Status run(const std::vector<float>& weight, const std::vector<double>& rowCosts, DeviceHessian& hessian,
             std::vector<double>& errors) {
    std::vector<float> diagonal;
    std::vector<uint8_t> dead;
    SLIM_RETURN_IF_ERROR(hessian.diagonal(diagonal));
    SLIM_RETURN_IF_ERROR(hessian.deadChannels(dead));
    SLIM_RETURN_IF_ERROR(hessian.gptqFactor(cancelled_, factor_));
    SLIM_RETURN_IF_ERROR(device_.upload(weight.data(), weight.size(), "weight", w_));
    SLIM_RETURN_IF_ERROR(clearColumns(device_, w_.address(), rows_, dead));
    SLIM_RETURN_IF_ERROR(device_.upload(diagonal.data(), diagonal.size(), "the Hessian's diagonal", h_));
    SLIM_RETURN_IF_ERROR(shares(rowCosts, errors));
    return scaleToLosses(
        options_.mostBits, rowCosts.data(),
        [&](int bits, std::vector<double>& losses) { return measure(bits, losses); }, errors);
  }

 private:
  /// a(g, b): summed over a tile's rows on the device, then tile after tile.
  Status shares(const std::vector<double>& rowCosts, std::vector<double>& out) {
    std::vector<float> u;
    SLIM_RETURN_IF_ERROR(downloadDiagonal(device_, factor_->upper.address(), groups_.cols, u));
    std::vector<double> columnCosts;
    for (const double value : u) columnCosts.push_back(1 / (value * value));
    const size_t count = groups_.count(), widths = size_t(options_.mostBits);
    const size_t tiles = divideUp(rows_, kQuantizedRows);
    DeviceBuffer<double> columns, rows, partial;
    SLIM_RETURN_IF_ERROR(device_.upload(columnCosts.data(), columnCosts.size(), "costs of columns", columns));
    SLIM_RETURN_IF_ERROR(device_.upload(rowCosts.data(), rowCosts.size(), "costs of rows", rows));
    SLIM_RETURN_IF_ERROR(device_.allocate(count * tiles * widths, "errors of groups", partial));
    GroupSharesArguments a{};
    a.w = addressOf<const float>(w_.address());
    a.h = addressOf<const float>(h_.address());
    a.columnCosts = addressOf<const double>(columns.address());
    a.rowCosts = addressOf<const double>(rows.address());
    a.shares = addressOf<double>(partial.address());
    a.rows = uint32_t(rows_);
    a.cols = uint32_t(groups_.cols);
    a.groupSize = uint32_t(groups_.groupSize);
    a.mostBits = uint32_t(widths);
    a.quantizer = uint32_t(options_.quantizer);
    SLIM_RETURN_IF_ERROR(device_.launch(
        "groupShares", {.gridX = unsigned(count), .gridY = unsigned(tiles), .threads = 32 * kQuantizedRows},
        a,
        std::to_string(rows_) + " × " + std::to_string(groups_.cols) + " in groups of " +
            std::to_string(groups_.groupSize)));
    std::vector<double> sums(partial.count());
    SLIM_RETURN_IF_ERROR(device_.copyToHost(sums.data(), partial.address(), partial.bytes()));
    out.assign(count * widths, 0);
    for (size_t i = 0; i < sums.size(); ++i) out[i / (tiles * widths) * widths + i % widths] += sums[i];
    return Status::success();
  }

  Status measure(int bits, std::vector<double>& losses) {
    DeviceBuffer<float> compensated;
    DeviceBuffer<double> sums;
    SLIM_RETURN_IF_ERROR(device_.allocate(w_.count(), "weight to quantize", compensated));
    SLIM_RETURN_IF_ERROR(device_.copyOnDevice(compensated.address(), w_.address(), w_.bytes()));
    SLIM_RETURN_IF_ERROR(device_.allocate(rows_, "losses of rows", sums));
    SLIM_RETURN_IF_ERROR(device_.fill(sums.address(), 0, sums.bytes()));
    DeviceGroupCodes codes;
    SLIM_RETURN_IF_ERROR(quantizeGroups(device_, compensated.address(), rows_, groups_,
                                        std::vector<uint8_t>(groups_.count(), uint8_t(bits)),
                                        {.quantizer = options_.quantizer,
                                         .h = h_.address(),
                                         .factor = factor_.get(),
                                         .losses = sums.address()},
                                        cancelled_, codes));
    losses.resize(rows_);
    return device_.copyToHost(losses.data(), sums.address(), sums.bytes());
  }

  Device& device_;
  const size_t rows_;
  const Groups groups_;
  const GroupErrorsOptions& options_;
  const CancelFlag& cancelled_;
  std::shared_ptr<const DeviceInverseFactor> factor_;
  DeviceBuffer<float> w_, h_;  // [rows, cols] without dead channels, and the Hessian's diagonal
};

}  // namespace

Status groupErrors(const Tensor& weight, DeviceHessian& hessian, const std::vector<double>& rows,
                   const GroupErrorsOptions& options, ThreadPool& pool, const CancelFlag& cancelled,
                   std::vector<double>& errors) {
  const Groups groups{weight.cols(), options.groupSize};
  std::vector<float> w;
  SLIM_RETURN_IF_ERROR(loadWeight(weight, pool, cancelled, w));
  const auto lock = hessian.device()->use();
  SLIM_RETURN_IF_ERROR(checkHessian(hessian.size(), hessian.sequences(), weight.cols()));
  return ErrorMeasurement(*hessian.device(), weight.rows(), groups, options, cancelled)
      .run(w, rows, hessian, errors);
}

}  // namespace slim::cuda
