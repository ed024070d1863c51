// What of a matrix's weights is asked for before a kernel reads them.
#pragma once
#include <cstddef>
#include <cstdint>

namespace slim {

// Measured on a Zen 5, the 2-bit mix of 576×1536 and 4096×11008 read from memory by one thread: 82 and 92 %
// of the plain read; 76 and 90 with 8 KB, 67 and 78 with 4 KB, the same as these with 12 and 16 KB.
constexpr size_t kPrefetchBytes = 10240;

/// Asks for the bytes that come kPrefetchBytes behind those of [from, from + bytes), which a kernel reads
/// next: of a tile the scales and offsets, then segment by segment the codes. Weights that are read `once` go
/// past the second- and third-level caches, which leaves these to others and costs less.
///
/// One instruction that goes straight through memory, for all widths of codes: the hardware's prefetcher
/// seems to follow it. On a Zen 5 two threads read 4096×11008 in the 2-bit mix at 97 % of the plain read;
/// unrolled, at 81 %; a block's lines beside its products, at 84 %. With a loop for each width they read
/// 576×1536 at 79 %, in place of 83. Therefore it is not inlined; as a function of the kernel's own file,
/// whose registers the compiler knows to be left alone, a call costs little.
[[maybe_unused, gnu::noinline]] static void prefetchBehind(const uint8_t* from, size_t bytes, bool once) {
  asm volatile("");  // or else the compiler takes calls out as of no effect
  const uint8_t* const end = from + kPrefetchBytes + bytes;
  if (once) {
#pragma GCC unroll 1
    for (const uint8_t* at = from + kPrefetchBytes; at < end; at += 64)
      __builtin_prefetch(at, /*write*/ 0, /*locality*/ 0);
  } else {
#pragma GCC unroll 1
    for (const uint8_t* at = from + kPrefetchBytes; at < end; at += 64) __builtin_prefetch(at);
  }
}

}  // namespace slim
