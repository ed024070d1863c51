// Weights from their units, and the tensor cores' product of a tile.
#pragma once
#include <cuda_fp16.h>

#include "cuda/kernels/arguments.h"

namespace slim::cuda {

/// (a & mask) | magic: lop3's table of that expression.
__device__ __forceinline__ uint32_t andOr(uint32_t a, uint32_t mask, uint32_t magic) {
  uint32_t result;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(result) : "r"(a), "r"(mask), "r"(magic));
  return result;
}

/// As shifts, not __funnelshift_r: its inline assembly is done anew for each of a word's registers.
__device__ __forceinline__ uint32_t rotateRight(uint32_t word, int count) {
  return count == 0 ? word : word >> count | word << (32 - count);
}

__device__ constexpr uint32_t both(uint32_t half) { return half << 16 | half; }

/// Register `reg` of k-tile `tile` of a lane's words: two float16 of fieldExcess + code.
template <int kBits>
__device__ __forceinline__ uint32_t weightPair(const uint32_t (&words)[2 * kBits], int tile, int reg) {
  const Field field = fieldOf(kBits, tile, reg);
  const uint32_t rotated = rotateRight(words[field.word], field.rotation);
  const int exponent = 15 + (kBits == 1 ? 11 : 10) - field.lowest;
  uint32_t magic = both(uint32_t(exponent) << 10);
  if constexpr (kBits == 3) {
    const Field low = lowFieldOf(tile, reg);
    magic = andOr(rotateRight(words[low.word], low.rotation), both(1u << low.lowest), magic);
    return andOr(rotated, both(6u << field.lowest), magic);
  }
  return andOr(rotated, both(((1u << kBits) - 1) << field.lowest), magic);
}

/// c += a · b: 16 × 16 weights times 16 × 8 activations.
__device__ __forceinline__ void multiplyTile(float (&c)[4], const uint32_t (&a)[4], uint32_t b0,
                                             uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3},{%4,%5,%6,%7},{%8,%9},{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// The vector kOffset bytes on from `from`: as a part of the instruction, not an addition. Weights are read
/// once: they leave the caches to the activations.
template <int kOffset>
__device__ __forceinline__ uint4 loadStreamed4(const void* from) {
  uint4 v;
  asm volatile("ld.global.cs.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from), "n"(kOffset));
  return v;
}
template <int kOffset>
__device__ __forceinline__ uint2 loadStreamed2(const void* from) {
  uint2 v;
  asm volatile("ld.global.cs.v2.u32 {%0,%1}, [%2+%3];" : "=r"(v.x), "=r"(v.y) : "l"(from), "n"(kOffset));
  return v;
}
template <int kOffset>
__device__ __forceinline__ uint4 loadCached4(const void* from) {
  uint4 v;
  asm volatile("ld.global.nc.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from), "n"(kOffset));
  return v;
}
template <int kOffset>
__device__ __forceinline__ uint2 loadCached2(const void* from) {
  uint2 v;
  asm volatile("ld.global.nc.v2.u32 {%0,%1}, [%2+%3];" : "=r"(v.x), "=r"(v.y) : "l"(from), "n"(kOffset));
  return v;
}

/// A unit's first vector of a lane: of 16 bytes, of one bit 8.
template <int kBits>
__device__ __forceinline__ const char* firstWords(const char* unit, uint32_t lane) {
  return kBits == 1 ? reinterpret_cast<const char*>(reinterpret_cast<const uint2*>(unit) + lane)
                    : reinterpret_cast<const char*>(reinterpret_cast<const uint4*>(unit) + lane);
}

/// A lane's words of the unit kUnit units after the one whose firstWords are `from`.
template <int kBits, int kUnit = 0, int kPiece = 0>
__device__ __forceinline__ void loadWords(const char* from, uint32_t lane, uint32_t (&words)[2 * kBits]) {
  constexpr int kOffset = kUnit * kBits * kUnitBytesABit + kPiece * 512;
  if constexpr (kPiece < kBits / 2) {
    const uint4 v = loadStreamed4<kOffset>(from);
    words[4 * kPiece] = v.x, words[4 * kPiece + 1] = v.y, words[4 * kPiece + 2] = v.z,
              words[4 * kPiece + 3] = v.w;
    loadWords<kBits, kUnit, kPiece + 1>(from, lane, words);
  } else if constexpr (kBits % 2 == 1) {
    const uint2 v = loadStreamed2<kOffset>(kBits == 1 ? from : from - uint64_t(lane) * 8);
    words[2 * kBits - 2] = v.x, words[2 * kBits - 1] = v.y;
  }
}

/// Scales and zero points of lane/4's two rows, of all slots of the unit kUnit units after that of `from`.
template <int kSlots, int kUnit = 0, int kSlot = 0>
__device__ __forceinline__ void loadRows(const uint2* from, uint2 (&rows)[kSlots]) {
  constexpr int kOffset = (kUnit * kSlots * 8 + kSlot) * int(sizeof(uint2));
  if constexpr (kSlots == 1) {
    rows[0] = loadCached2<kOffset>(from);
  } else if constexpr (kSlot < kSlots) {
    const uint4 two = loadCached4<kOffset>(from);
    rows[kSlot] = {two.x, two.y}, rows[kSlot + 1] = {two.z, two.w};
    loadRows<kSlots, kUnit, kSlot + 2>(from, rows);
  }
}

/// Rows lane/4 and lane/4 + 8 of a slot: scale, and zero point (1 bit: mean).
struct RowPair {
  float scale[2], offset[2];
};

__device__ __forceinline__ RowPair rowPair(uint2 packed) {
  const float2 low = __half22float2(reinterpret_cast<const __half2&>(packed.x));
  const float2 high = __half22float2(reinterpret_cast<const __half2&>(packed.y));
  return {{low.x, high.x}, {low.y, high.y}};
}

__device__ __forceinline__ uint32_t sharedAddress(const void* p) {
  return uint32_t(__cvta_generic_to_shared(p));
}

__device__ __forceinline__ void copyAsync(uint32_t shared, const void* global) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(global) : "memory");
}
__device__ __forceinline__ void copyAsync8(uint32_t shared, const void* global) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8;" ::"r"(shared), "l"(global) : "memory");
}
__device__ __forceinline__ void copyAsync(void* shared, const void* global) {
  copyAsync(sharedAddress(shared), global);
}
__device__ __forceinline__ void commitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void waitCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

}  // namespace slim::cuda
