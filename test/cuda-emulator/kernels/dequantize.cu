// Packed weights times activations on the tensor cores, one warp a tile of 16 rows: codes of two bits are cut
// out of words by LOP3 into the fraction of a float of known exponent, and that float is taken off again.
#include <cstdint>

// Fragment r of k-tile j (of the two in a word): the low element at bit 2 * (r + 4 * j), the high one 16 bits
// above.
template <uint32_t kExponent>
__device__ uint32_t codes(uint32_t word, int r, int j) {
  uint32_t fragment;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;"
      : "=r"(fragment)
      : "r"(word >> 2 * (r + 4 * j)), "n"(0x00030003), "n"(kExponent));
  return fragment;
}
// (1024 + code) - 1024, or (128 + code) - 128 in bf16: exact.
__device__ uint32_t halves(uint32_t word, int r, int j) {
  uint32_t fragment = codes<0x64006400>(word, r, j);
  asm("sub.rn.f16x2 %0, %0, %1;" : "+r"(fragment) : "r"(0x64006400));
  return fragment;
}
__device__ uint32_t brains(uint32_t word, int r, int j) {
  uint32_t fragment = codes<0x43004300>(word, r, j);
  asm("fma.rn.bf16x2 %0, %0, %1, %2;" : "+r"(fragment) : "r"(0x3f803f80), "r"(0xc300c300));
  return fragment;
}

// w[tile pair][lane]; x by columns of depth k; y by rows of 8.
template <bool kBrain>
__device__ void multiply(const uint32_t* w, const uint16_t* x, float* y, int k) {
  const int lane = threadIdx.x, group = lane >> 2, t = lane & 3;
  float c[4] = {};
  for (int tile = 0; tile < k / 16; tile++) {
    const uint32_t word = w[tile / 2 * 32 + lane];
    uint32_t a[4], b[2];
    for (int r = 0; r < 4; r++) a[r] = kBrain ? brains(word, r, tile & 1) : halves(word, r, tile & 1);
    for (int r = 0; r < 2; r++)
      b[r] = *reinterpret_cast<const uint32_t*>(x + group * k + tile * 16 + 2 * t + 8 * r);
    if constexpr (kBrain) {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
          "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
          "{%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
          : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
          : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }
  }
  for (int i = 0; i < 4; i++) y[(group + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = c[i];
}
extern "C" __global__ void packedHalf(const uint32_t* w, const uint16_t* x, float* y, int k) {
  multiply<false>(w, x, y, k);
}
extern "C" __global__ void packedBrain(const uint32_t* w, const uint16_t* x, float* y, int k) {
  multiply<true>(w, x, y, k);
}

// Codes as bytes: fragment r of the k-tile of 32 at bits 2r of each byte of w[tile][lane].
extern "C" __global__ void packedBytes(const uint32_t* w, const signed char* x, int* y, int k) {
  const int lane = threadIdx.x, group = lane >> 2, t = lane & 3;
  int c[4] = {};
  for (int tile = 0; tile < k / 32; tile++) {
    const uint32_t word = w[tile * 32 + lane];
    uint32_t a[4], b[2];
    for (int r = 0; r < 4; r++) a[r] = word >> 2 * r & 0x03030303;
    for (int r = 0; r < 2; r++)
      b[r] = *reinterpret_cast<const uint32_t*>(x + group * k + tile * 32 + 4 * t + 16 * r);
    asm("mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
  for (int i = 0; i < 4; i++) y[(group + 8 * (i >> 1)) * 8 + 2 * t + (i & 1)] = c[i];
}
