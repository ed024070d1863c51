// What a backward pass finds at the linear layers of a block, and what is made of it.
#pragma once
#include <map>
#include <string>
#include <vector>

#include "core/thread_pool.h"

namespace slim {

/// The linear layers that share an input, on one tile of tokens.
struct TapGradients {
  struct Layer {
    const char* role;
    size_t firstRow, rows;
  };
  const char* tap;
  size_t firstToken, tokens;
  const float* inputs;  // X [tokens][cols], row stride inputStride
  size_t inputStride, cols;
  const float* outputs;  // ∂L/∂y [tokens][rows] of all layers side by side, row stride outputStride
  size_t outputStride, rows;
  std::vector<Layer> layers;
};

/// Called tap by tap, tile by tile, each token once a tap.
class GradientSink {
 public:
  virtual ~GradientSink() = default;
  virtual void add(const TapGradients& gradients, ThreadPool& pool) = 0;
};

/// The Fisher information of every output, Σ over tokens (∂L/∂y_o)²; and what a token weighs in it, the mean
/// over the outputs of a tap's layers of (∂L/∂y_to)².
class FisherSums final : public GradientSink {
 public:
  explicit FisherSums(size_t tokens) : tokens_(tokens) {}
  void add(const TapGradients& gradients, ThreadPool& pool) override;

  const std::map<std::string, std::vector<double>>& rows() const { return rows_; }          // by role
  const std::map<std::string, std::vector<float>>& tokenPowers() const { return powers_; }  // by tap

 private:
  size_t tokens_;
  std::map<std::string, std::vector<double>> rows_;
  std::map<std::string, std::vector<float>> powers_;
};

/// ∂L/∂W = Σ over tokens ∂L/∂yᵀ x, [rows][cols] by role.
class WeightGradients final : public GradientSink {
 public:
  struct Matrix {
    size_t rows = 0, cols = 0;
    std::vector<float> values;
  };
  void add(const TapGradients& gradients, ThreadPool& pool) override;

  const std::map<std::string, Matrix>& matrices() const { return matrices_; }

 private:
  std::map<std::string, Matrix> matrices_;
};

}  // namespace slim
