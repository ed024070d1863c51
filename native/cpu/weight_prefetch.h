// What of a matrix's weights is asked for before a kernel reads them.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace slim {

// Measured on a Zen 5, the 2-bit mix of 576×1536 and 4096×11008 read from memory by one thread, in % of the
// plain read: 82 and 92; no more with 12 or 16 KB; 76 and 90 with 8 KB, 67 and 78 with 4 KB.
constexpr size_t kPrefetchBytes = 10240;

/// The order in which a thread reads weights: straight on to `end`, and then from `next` on, which may be the
/// same.
struct WeightStream {
  const uint8_t *end, *next;
  bool once;  // by one panel of tokens
};

/// Called before a kernel reads [from, from + bytes): once for a tile's scales and offsets, then for the
/// codes of each segment. Asks for what the thread reads kPrefetchBytes later. Past the end that is for the
/// next loop, and comes from memory while the threads wait for each other: 576×1536 with two threads is read
/// some 5 % faster. It stays in the caches, as other work may come before that loop. Weights that are read
/// `once` in a product do not stay in the second- and third-level caches, as far as the processor takes the
/// hint: from memory cheaper by 3 to 6 %, as fast where a model's weights fit the second level, up to 10 %
/// slower where they nearly fill the third.
///
/// One instruction that goes straight through memory for codes of all widths: the hardware's prefetcher seems
/// to follow it. On a Zen 5 two threads read 4096×11008 in the 2-bit mix at 97 % of the plain read; unrolled,
/// at 81 %; a block's lines beside its products, at 84 %. With a loop for each width they read 576×1536 at 79
/// %, in place of 83. Therefore it is not inlined. As a function of the kernel's own file it costs little:
/// GCC knows which registers it leaves alone.
[[maybe_unused, gnu::noinline]] static void prefetchAhead(const uint8_t* from, size_t bytes,
                                                          const WeightStream& stream) {
  asm volatile("");  // or the compiler would remove the call as having no effect
  uintptr_t at = uintptr_t(from) + kPrefetchBytes;
  const uintptr_t last = at + bytes, turn = uintptr_t(stream.end), end = std::min(last, turn);
  if (stream.once) {
#pragma GCC unroll 1
    for (; at < end; at += 64)
      __builtin_prefetch(reinterpret_cast<const void*>(at), /*write*/ 0, /*locality*/ 0);
  } else {
#pragma GCC unroll 1
    for (; at < end; at += 64) __builtin_prefetch(reinterpret_cast<const void*>(at));
  }
  if (last <= turn) return;
  const uintptr_t jump = uintptr_t(stream.next) - turn;
#pragma GCC unroll 1
  for (at += jump; at < last + jump; at += 64) __builtin_prefetch(reinterpret_cast<const void*>(at));
}

}  // namespace slim
