// A block's forward pass over all tokens that halts before each input of its linear layers: each layer can be
// quantized with the layers before it quantized, and nothing is computed twice.
#pragma once
#include <cstddef>

#include "quant/hessian.h"

namespace slim {

class DecoderBlock;

/// By the layers whose input a stage computes: q/k/v, o, gate/up, down, and last the block's output.
enum class Stage { Qkv, O, GateUp, Down, End };

/// What the stages so far have left; rows of all tokens, sequence after sequence.
struct StagedPass {
  float* states;    // [tokens, hidden], the block's input at first, its output at last
  float* attended;  // [tokens, queryWidth], from stage O on
  float* inner;     // [tokens, intermediate], from stage Down on
};

/// Where a stage's input goes: H and, beside the original block on its own pass, the drift of inputs and
/// states.
struct StageTap {
  Hessian* hessian = nullptr;
  const DecoderBlock* original = nullptr;
  StagedPass originalPass{};
};

}  // namespace slim
