// What a decoder block is, as data (BlockSpec in lib/architecture/spec.ts): everything that differs between
// families.
#pragma once
#include <cstddef>
#include <vector>

namespace slim {

struct NormSpec {
  enum class Kind { Rms, Layer } kind = Kind::Rms;
  float eps = 1e-6f;
  bool unitOffset = false;  // the weight is stored as weight − 1
};

/// Rotary embedding of the first `dim` elements of a head, halves apart; dim 0: none.
struct RotarySpec {
  size_t dim = 0;
  std::vector<float> inverseFrequencies;  // [dim / 2]
  float scale = 1.0f;                     // factor on cos and sin

  bool operator==(const RotarySpec&) const = default;
};

struct AttentionSpec {
  float scale = 1.0f;    // factor on q·k
  float softcap = 0.0f;  // cap · tanh(score / cap); 0: none
  size_t window = 0;     // a token sees itself and the window − 1 tokens before it; 0: all
};

enum class QkvLayout { Separate, Stacked, PerHead };
enum class Activation { Silu, Gelu, GeluTanh, Relu };
enum class Mlp { Gated, GatedStacked, Plain };
enum class Residual { Sequential, Parallel };

struct BlockSpec {
  size_t hiddenSize = 0, heads = 0, kvHeads = 0, headDim = 0;
  NormSpec norm;
  RotarySpec rotary;
  AttentionSpec attention;
  QkvLayout qkvLayout = QkvLayout::Separate;
  Activation activation = Activation::Silu;
  Mlp mlp = Mlp::Gated;
  Residual residual = Residual::Sequential;

  size_t queryWidth() const { return heads * headDim; }
  size_t keyWidth() const { return kvHeads * headDim; }
  size_t qkvWidth() const { return queryWidth() + 2 * keyWidth(); }
};

}  // namespace slim
