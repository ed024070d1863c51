// One pass of some sequences' new tokens over a model on a device: its shape, what the host tells the
// kernels, and the values between the layers. A recorded pass is launched again with what the host tells it
// anew.
#pragma once
#include <cstdint>
#include <memory>
#include <vector>

#include "cuda/device_cache.h"
#include "cuda/device_linear.h"
#include "cuda/sampling.h"
#include "decoder/norm.h"

namespace slim::cuda {

/// A pass with the same shape has the same kernels at the same addresses.
struct PassShape {
  size_t rows = 0, sequences = 0, tiles = 0, pagesOfSequence = 0, slices = 1;
  size_t tileRows = 0;   // kQueryRows or kPromptRows: which attention kernel
  size_t logitRows = 0;  // rows whose next tokens are drawn
  SamplingBuffers::Shape sampling;

  auto operator<=>(const PassShape&) const = default;
};

/// Rows of one sequence from position `start` on, one sequence after the other.
struct PassChunk {
  DeviceCache* cache = nullptr;
  size_t length = 0, start = 0;
};

struct PassInput {
  std::vector<int32_t> ids;  // none where the pass starts from states
  std::vector<PassChunk> chunks;
  std::vector<int32_t> logitRows;
  SamplingInput sampling;                 // of those rows
  size_t headsOfTile = 1;                 // of the attention: a tile has tileRows / headsOfTile tokens
  Precision precision = Precision::Tf32;  // Float32: keys and values are, too, and no tensor cores attend

  PassShape shape() const;
};

/// The widths of a model's values.
struct PassWidths {
  size_t hidden = 0, qkv = 0, query = 0, inner = 0, vocab = 0, attentionSums = 0, attentionMoments = 0;
};

class DevicePass {
 public:
  /// Makes room for the shape, and keeps it for smaller ones.
  Status reserve(Device& device, const PassShape& shape, const PassWidths& widths);
  /// Tells the kernels of what comes next; of the shape that room was made for.
  Status upload(Device& device, const PassInput& input);

  PassShape shape;
  DeviceBuffer<float> states, normed, mlpNormed, qkv, attended, output, inner, last, logits, sums, moments;
  ProductScratch products;
  SamplingBuffers sampling;

  // What upload() brings.
  DeviceAddress pages = 0, tiles = 0, ids = 0, positions = 0, sequences = 0, logitRows = 0;

 private:
  DeviceBuffer<uint32_t> inputs_;
};

/// RMS or layer norm on a device; empty: the rows as they are.
struct DeviceNorm {
  NormType type = NormType::Copy;
  float eps = 0;
  DeviceBuffer<float> weight, bias;

  explicit operator bool() const { return type != NormType::Copy; }
  static Status make(Device& device, const Norm& source, const std::string& about, DeviceNorm& out);
  struct Rows {
    DeviceAddress x = 0, out = 0;  // float32 [rows, width]
    size_t rows = 0, width = 0;
    DeviceAddress rowIndices = 0;  // of x; 0: as they come
    bool accumulate = false;
  };
  Status apply(Device& device, const Rows& rows) const;
  struct GradientRows {
    DeviceAddress x = 0, outputGradients = 0;
    DeviceAddress inputGradients = 0;  // may be either of them
    size_t rows = 0, width = 0;
    bool accumulate = false;
  };
  /// Queues the gradients by x of those by norm(x).
  Status backward(Device& device, const GradientRows& rows) const;
};

}  // namespace slim::cuda
