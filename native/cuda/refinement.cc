#include "cuda/refinement.h"

#include <algorithm>

#include "cuda/kernels/refinement_arguments.h"
#include "cuda/matrix_operations.h"
#include "cuda/matrix_rows.h"
#include "cuda/multiply.h"
#include "quant/groups.h"

namespace slim::cuda {
namespace {

// Columns whose changes are gathered before the other columns' gradients follow: these are then read and
// written once for 512 columns, not once for every group.
constexpr size_t kLazyColumns = 512;

class Refiner {
 public:
  Refiner(Device& device, DeviceAddress h, DeviceGroupCodes& codes)
      : device_(device),
        h_(h),
        codes_(codes),
        rows_(codes.rows),
        cols_(codes.cols),
        groups_{codes.cols, codes.groupSize},
        lazyGroups_(std::max<size_t>(1, kLazyColumns / codes.groupSize)) {}

  /// W − Q and G = (W − Q) H; H is symmetric.
  Status start(DeviceAddress w) {
    const size_t count = rows_ * cols_;
    SLIM_RETURN_IF_ERROR(device_.allocate(count, "errors of weights", error_));
    SLIM_RETURN_IF_ERROR(device_.allocate(count, "the error's gradient", gradient_));
    changeStride_ = std::min(cols_, lazyGroups_ * codes_.groupSize);
    SLIM_RETURN_IF_ERROR(device_.allocate(rows_ * changeStride_, "changes of weights", changes_));
    SLIM_RETURN_IF_ERROR(dequantize(device_, codes_, error_.address()));
    const DeviceRows error{error_.address(), cols_};
    SLIM_RETURN_IF_ERROR(copyRows(device_, rows_, cols_, {w, cols_}, error, error));
    return multiply(device_, rows_, cols_, cols_, DeviceOperand::rowMajor(error_.address(), cols_),
                    DeviceOperand::rowMajor(h_, cols_), gradient_.address(), cols_);
  }

  /// tr((W − Q) H (W − Q)ᵀ) = Σ (W − Q) ∘ G.
  Status objective(double& out) {
    return innerProduct(device_, rows_, cols_, error_.address(), gradient_.address(), out);
  }

  Status sweep(const CancelFlag& cancelled) {
    const size_t count = groups_.count();
    for (size_t first = 0; first < count; first += lazyGroups_) {
      if (cancelled.load()) return Status::aborted();
      const size_t last = std::min(first + lazyGroups_, count) - 1;
      const size_t begin = groups_.begin(first), end = groups_.end(last);
      for (size_t group = first; group <= last; ++group) {
        SLIM_RETURN_IF_ERROR(refineGroup(group, begin));
        SLIM_RETURN_IF_ERROR(follow(begin, groups_.begin(group), groups_.end(group), begin, end));
      }
      SLIM_RETURN_IF_ERROR(follow(begin, begin, end, 0, begin));
      SLIM_RETURN_IF_ERROR(follow(begin, begin, end, end, cols_));
    }
    return Status::success();
  }

 private:
  /// Scales, then codes, of a group of the lazy columns from `batch` on.
  Status refineGroup(size_t group, size_t batch) {
    const size_t begin = groups_.begin(group), width = groups_.width(group);
    RefineGroupArguments a{};
    a.h = addressOf<const float>(h_ + (begin * cols_ + begin) * sizeof(float));
    a.gradient = addressOf<const float>(gradient_.address() + begin * sizeof(float));
    a.error = addressOf<float>(error_.address() + begin * sizeof(float));
    a.changes = addressOf<float>(changes_.address() + (begin - batch) * sizeof(float));
    a.codes = addressOf<uint8_t>(codes_.codes.address() + begin);
    a.scales = addressOf<uint16_t>(codes_.scales.address() + group * rows_ * sizeof(uint16_t));
    a.means = addressOf<uint16_t>(codes_.means.address() + group * rows_ * sizeof(uint16_t));
    a.zeros = addressOf<const uint8_t>(codes_.zeros.address() + group * rows_);
    a.columns = cols_;
    a.changeStride = changeStride_;
    a.rows = uint32_t(rows_);
    a.width = uint32_t(width);
    a.bits = codes_.groupBits[group];
    const bool narrow = width <= kNarrowWidth;
    const size_t rowsOfCta = (narrow ? kNarrowRows : kWideRows) * kRefineWarps;
    return device_.launch(
        narrow ? "refineGroup128" : "refineGroup256",
        {.gridX = unsigned((rows_ + rowsOfCta - 1) / rowsOfCta), .threads = 32 * kRefineWarps}, a,
        std::to_string(rows_) + " rows of a group of " + std::to_string(width));
  }

  /// G[:, from … to) follows the changes of columns [begin, end) of the lazy columns from `batch` on.
  Status follow(size_t batch, size_t begin, size_t end, size_t from, size_t to) {
    if (from >= to) return Status::success();
    return multiply(
        device_, rows_, to - from, end - begin,
        DeviceOperand::rowMajor(changes_.address() + (begin - batch) * sizeof(float), changeStride_),
        DeviceOperand::columnMajor(h_ + (begin * cols_ + from) * sizeof(float), cols_),
        gradient_.address() + from * sizeof(float), cols_, {.accumulate = true});
  }

  Device& device_;
  const DeviceAddress h_;
  DeviceGroupCodes& codes_;
  const size_t rows_, cols_;
  const Groups groups_;
  const size_t lazyGroups_;
  size_t changeStride_ = 0;
  DeviceBuffer<float> error_, gradient_;  // W − Q and G, [rows, cols]
  DeviceBuffer<float> changes_;           // Q before − Q after of the lazy columns, [rows, changeStride]
};

}  // namespace

Status refine(Device& device, DeviceAddress w, DeviceAddress h, const Refinement& options,
              const CancelFlag& cancelled, DeviceGroupCodes& codes, std::vector<double>& objective) {
  Refiner refiner(device, h, codes);
  SLIM_RETURN_IF_ERROR(refiner.start(w));
  objective.resize(1);
  SLIM_RETURN_IF_ERROR(refiner.objective(objective[0]));
  for (int sweep = 0; sweep < options.sweeps; ++sweep) {
    SLIM_RETURN_IF_ERROR(refiner.sweep(cancelled));
    double after;
    SLIM_RETURN_IF_ERROR(refiner.objective(after));
    const double before = objective.back();
    objective.push_back(after);
    if (after > (1 - options.leastGain) * before) break;
  }
  return Status::success();
}

}  // namespace slim::cuda
