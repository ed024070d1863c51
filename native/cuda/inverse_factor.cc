#include "cuda/inverse_factor.h"

#include "cuda/kernels/linear_algebra_arguments.h"
#include "cuda/matrix_rows.h"
#include "cuda/multiply.h"

namespace slim::cuda {
namespace {

constexpr unsigned kThreads = 256;

class Factorization {
 public:
  Factorization(Device& device, DeviceAddress a, size_t n, const CancelFlag& cancelled)
      : device_(device), a_(a), n_(n), cancelled_(cancelled), shape_(std::to_string(n) + " channels") {}

  Status allocate() {
    SLIM_RETURN_IF_ERROR(device_.allocate(blocks() * kSquare, "inverses of diagonal blocks", squares_));
    SLIM_RETURN_IF_ERROR(device_.allocate(kFactorBlock * n_, "a product of the inverse", product_));
    return device_.allocate(1, "a failure flag", failed_);
  }

  /// a = scale · h, damped.
  Status damp(DeviceAddress h, float scale, double added) {
    DampArguments arguments{};
    arguments.h = addressOf<const float>(h);
    arguments.a = addressOf<float>(a_);
    arguments.added = added;
    arguments.n = uint32_t(n_);
    arguments.scale = scale;
    return launch("dampUpper", n_, arguments);
  }

  /// A = P Pᵀ in place, as slim::factorUpper.
  Status factor(bool& definite) {
    SLIM_RETURN_IF_ERROR(device_.fill(failed_.address(), 0, failed_.bytes()));
    FactorArguments arguments{};
    arguments.a = addressOf<float>(a_);
    arguments.block = addressOf<double>(squares_.address());
    arguments.failed = addressOf<uint32_t>(failed_.address());
    arguments.n = uint32_t(n_);
    for (size_t end = n_; end > 0;) {
      if (cancelled_.load()) return Status::aborted();
      const size_t begin = end > kFactorBlock ? end - kFactorBlock : 0, size = end - begin;
      arguments.begin = uint32_t(begin);
      arguments.size = uint32_t(size);
      SLIM_RETURN_IF_ERROR(launch("factorDiagonal", 1, arguments));
      if (begin > 0) {
        SLIM_RETURN_IF_ERROR(launch("solvePanel", (begin + kPanelRows - 1) / kPanelRows, arguments));
        // What is left: A −= X Xᵀ. C and the operands are different columns of the same rows.
        const auto x = DeviceOperand::rowMajor(a_ + begin * sizeof(float), n_);
        SLIM_RETURN_IF_ERROR(multiply(device_, begin, begin, size, x, x, a_, n_,
                                      {.alpha = -1, .accumulate = true, .upperOnly = true}));
      }
      end = begin;
    }
    uint32_t failed = 0;
    SLIM_RETURN_IF_ERROR(device_.copyToHost(&failed, failed_.address(), sizeof failed));
    definite = failed == 0;
    return Status::success();
  }

  /// P⁻¹ in place, as slim::invertUpper.
  Status invert() {
    FactorArguments lower{};
    lower.a = addressOf<float>(a_);
    lower.n = uint32_t(n_);
    SLIM_RETURN_IF_ERROR(launch("clearLower", n_, lower));
    InvertArguments arguments{};
    arguments.a = addressOf<float>(a_);
    arguments.inverses = addressOf<double>(squares_.address());
    arguments.product = addressOf<const float>(product_.address());
    arguments.n = uint32_t(n_);
    SLIM_RETURN_IF_ERROR(launch("invertDiagonals", blocks(), arguments));
    for (size_t end = n_, block = 0; end > 0; ++block) {
      if (cancelled_.load()) return Status::aborted();
      const size_t begin = end > kFactorBlock ? end - kFactorBlock : 0, size = end - begin, rest = n_ - end;
      if (rest > 0) {
        SLIM_RETURN_IF_ERROR(
            multiply(device_, size, rest, rest, DeviceOperand::rowMajor(element(begin, end), n_),
                     DeviceOperand::columnMajor(element(end, end), n_), product_.address(), rest));
        arguments.inverses = addressOf<double>(squares_.address() + block * kSquare * sizeof(double));
        arguments.begin = uint32_t(begin);
        arguments.size = uint32_t(size);
        arguments.rest = uint32_t(rest);
        SLIM_RETURN_IF_ERROR(launch("finishInverse", (rest + kPanelRows - 1) / kPanelRows, arguments));
      }
      end = begin;
    }
    return Status::success();
  }

 private:
  static constexpr size_t kSquare = kFactorBlock * kFactorBlock;

  size_t blocks() const { return (n_ + kFactorBlock - 1) / kFactorBlock; }
  DeviceAddress element(size_t row, size_t column) const { return a_ + (row * n_ + column) * sizeof(float); }
  template <typename Arguments>
  Status launch(const char* kernel, size_t ctas, const Arguments& arguments) {
    return device_.launch(kernel, {.gridX = unsigned(ctas), .threads = kThreads}, arguments, shape_);
  }

  Device& device_;
  DeviceAddress a_;
  size_t n_;
  const CancelFlag& cancelled_;
  std::string shape_;
  DeviceBuffer<double> squares_;
  DeviceBuffer<float> product_;
  DeviceBuffer<uint32_t> failed_;
};

}  // namespace

Status factorInverse(Device& device, DeviceAddress h, size_t n, float scale, Damping damping,
                     const CancelFlag& cancelled, DeviceInverseFactor& out) {
  std::vector<float> diagonal;
  SLIM_RETURN_IF_ERROR(downloadDiagonal(device, h, n, diagonal));
  DeviceInverseFactor factor;
  SLIM_RETURN_IF_ERROR(device.allocate(n * n, "the inverse factor of a Hessian", factor.upper));
  Factorization factorization(device, factor.upper.address(), n, cancelled);
  SLIM_RETURN_IF_ERROR(factorization.allocate());
  const auto tryFactor = [&](double added, bool& definite) {
    SLIM_RETURN_IF_ERROR(factorization.damp(h, scale, added));
    SLIM_RETURN_IF_ERROR(factorization.factor(definite));
    return definite ? factorization.invert() : Status::success();
  };
  SLIM_RETURN_IF_ERROR(factorDamped(diagonal, scale, damping, cancelled, tryFactor, factor));
  out = std::move(factor);
  return Status::success();
}

}  // namespace slim::cuda
