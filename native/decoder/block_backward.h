// Memory of the backward pass of a decoder block, reused from block to block.
#pragma once
#include <vector>

#include "decoder/block.h"
#include "decoder/gradients.h"

namespace slim {

struct BackwardScratch {
  BlockScratch forward;
  // Recomputed values that the forward pass does not keep: q, k, v before norms and turns; the inputs of the
  // norms after the linear layers; the gate and up projections.
  FloatBuffer projected, attentionOutput, mlpOutput, gateUp;
  // Gradients by: the output of o and of down, the attended values, q k v, gate and up, the input of the
  // attention and of the MLP.
  FloatBuffer outputGradients, attendedGradients, qkvGradients, gateUpGradients, attentionInputGradients,
      mlpInputGradients;
  std::vector<FloatBuffer> attention;
  FloatBuffer decoded;
};

}  // namespace slim
