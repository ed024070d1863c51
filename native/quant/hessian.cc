#include "quant/hessian.h"

#include <algorithm>

#include "cpu/gemm.h"

namespace slim {

Hessian::Hessian(size_t size, size_t keepEvery) : size_(size), keepEvery_(keepEvery), sum_(size * size) {}

void Hessian::add(const float* x, size_t tokens, size_t stride, size_t sequences, ThreadPool& pool,
                  const OriginalInputs& original) {
  std::unique_lock writing(access_);
  // sum [width, size] += Σ (a − b)ᵀ x of rows [tokens, width].
  const auto addDrift = [&](const float* a, const float* b, size_t width, size_t rowStride,
                            std::vector<float>& sum) {
    std::vector<float> drift(tokens * width);
    pool.parallelFor(tokens, [&](size_t t, int) {
      for (size_t j = 0; j < width; ++j)
        drift[t * width + j] = a[t * rowStride + j] - b[t * rowStride + j];
    });
    sum.resize(width * size_);
    gemm(pool, width, size_, tokens, Operand::columnMajor(drift.data(), width),
         Operand::columnMajor(x, stride), sum.data(), size_, {.accumulate = true});
  };
  if (original.x) addDrift(original.x, x, size_, stride, inputDrift_);
  if (original.states)
    addDrift(original.states, original.quantizedStates, original.stateSize, original.stateSize, stateDrift_);
  const Operand channels = Operand::columnMajor(x, stride);
  gemm(pool, size_, size_, tokens, channels, channels, sum_.data(), size_,
       {.accumulate = true, .upperOnly = true});
  if (keepEvery_ > 0) {
    const size_t skip = (keepEvery_ - tokens_ % keepEvery_) % keepEvery_;  // counted over all adds
    for (size_t t = skip; t < tokens; t += keepEvery_)
      samples_.insert(samples_.end(), x + t * stride, x + t * stride + size_);
  }
  tokens_ += tokens;
  sequences_ += sequences;
  mirrored_ = false;
  gptqFactor_.reset();
  salienceFactor_.reset();
}

const float* Hessian::sum() const {
  std::lock_guard lock(derived_);
  constexpr size_t kTile =
      32;  // mirrored tile by tile: a column walk through a large matrix misses the cache
  if (!mirrored_) {
    for (size_t i0 = 0; i0 < size_; i0 += kTile)
      for (size_t j0 = 0; j0 <= i0; j0 += kTile)
        for (size_t i = i0; i < std::min(size_, i0 + kTile); ++i)
          for (size_t j = j0; j < std::min(i, j0 + kTile); ++j) sum_[i * size_ + j] = sum_[j * size_ + i];
    mirrored_ = true;
  }
  return sum_.data();
}

Status Hessian::matrix(TensorPtr& out) const {
  TensorPtr h;
  SLIM_RETURN_IF_ERROR(Tensor::allocate(DType::F32, {size_, size_}, h));
  const float factor = sequences_ > 0 ? scale() : 0.0f;
  const float* from = sum();
  for (size_t i = 0; i < size_ * size_; ++i) h->as<float>()[i] = factor * from[i];
  out = std::move(h);
  return Status::success();
}

Status Hessian::gptqFactor(ThreadPool& pool, const CancelFlag& cancelled,
                           std::shared_ptr<const InverseFactor>& out) const {
  std::lock_guard lock(derived_);
  if (!gptqFactor_) {
    auto factor = std::make_shared<InverseFactor>();
    SLIM_RETURN_IF_ERROR(factorInverse(sum_.data(), size_, scale(), Damping::Gptq, pool, cancelled, *factor));
    gptqFactor_ = std::move(factor);
  }
  out = gptqFactor_;
  return Status::success();
}

Status Hessian::salienceFactor(ThreadPool& pool, const CancelFlag& cancelled,
                               std::shared_ptr<const SalienceFactor>& out) const {
  std::lock_guard lock(derived_);
  if (!salienceFactor_) {
    InverseFactor factor;
    SLIM_RETURN_IF_ERROR(
        factorInverse(sum_.data(), size_, scale(), Damping::Salience, pool, cancelled, factor));
    auto kept = std::make_shared<SalienceFactor>();
    kept->diagonal.resize(size_);
    for (size_t j = 0; j < size_; ++j) kept->diagonal[j] = factor.upper[j * size_ + j];
    kept->damping = factor.lambda;
    salienceFactor_ = std::move(kept);
  }
  out = salienceFactor_;
  return Status::success();
}

std::vector<float> Hessian::diagonal() const {
  std::vector<float> diagonal(size_);
  for (size_t j = 0; j < size_; ++j) diagonal[j] = sum_[j * size_ + j];
  return diagonal;
}

std::vector<uint8_t> Hessian::deadChannels() const {
  std::vector<uint8_t> dead(size_);
  for (size_t j = 0; j < size_; ++j) dead[j] = sum_[j * size_ + j] == 0;
  return dead;
}

}  // namespace slim
