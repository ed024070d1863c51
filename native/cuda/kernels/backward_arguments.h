// Arguments of the kernels of the backward pass of a decoder block.
#pragma once
#include "cuda/kernels/decoder_arguments.h"

namespace slim::cuda {

/// normRowsBackward: gradients by x of norm(x) [rows, size], of those by its output.
struct NormBackwardArguments {
  Address<const float> x, weight, outputGradients;
  Address<float> inputGradients;  // may be x or outputGradients
  uint32_t size, type, accumulate;
  float eps;
};

/// activateRowsBackward: gradients of [gate, up], or of x alone, [rows, stride] each; those by the activated
/// values come in their last `width` columns.
struct ActivateBackwardArguments {
  Address<const float> x;
  Address<float> gradients;
  uint64_t stride;
  uint32_t width, gated, activation;
};

/// prepareHeadsBackward: gradients by prepared heads become those by projected ones, in place.
struct PrepareHeadsBackwardArguments {
  PrepareHeadsArguments heads;     // qkv being the gradients
  Address<const float> projected;  // q, k, v before their norms [rows, qkvStride]; not read without norms
};

/// softmaxBackward: of every head and query, scores become likelihoods, and gradients by likelihoods those by
/// scores; both [heads, queries, stride], zeros where a query does not see a key.
struct SoftmaxBackwardArguments {
  Address<float> scores, gradients;
  Address<const float> out,
      outGradients;  // of the first query and head [queries, outStride], heads headStride apart
  uint64_t stride, outStride, headStride;
  uint32_t headDim, keys;
  uint32_t firstPosition, firstKey;  // of the queries and of the keys
  uint32_t window;
  float cap;
};

}  // namespace slim::cuda
