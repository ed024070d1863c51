// One block of each of GGUF's types that are decoded at load only, to float32. All run the same portable
// code: a model of 10^8 weights takes a tenth of a second.
#pragma once
#include <cstddef>
#include <cstdint>

namespace slim {

/// Elements of the longest block, the super-block of the K types.
constexpr size_t kMaxBlockElements = 256;

// `block` needs no alignment; `to` takes 32 elements (Q5_0, Q5_1, IQ4_NL), 64 (Q2_0) or 256.
void decodeQ5_0(const uint8_t* block, float* to);
void decodeQ5_1(const uint8_t* block, float* to);
void decodeIq4Nl(const uint8_t* block, float* to);
void decodeQ2_0(const uint8_t* block, float* to);
void decodeQ2K(const uint8_t* block, float* to);
void decodeQ3K(const uint8_t* block, float* to);
void decodeQ4K(const uint8_t* block, float* to);
void decodeQ5K(const uint8_t* block, float* to);
void decodeQ6K(const uint8_t* block, float* to);
void decodeIq4Xs(const uint8_t* block, float* to);
void decodeTq2_0(const uint8_t* block, float* to);

}  // namespace slim
