// The loop over 32 lanes that an arithmetic instruction is. An operation is a struct whose operator() maps
// the sources of one lane to its result; one that needs the instruction (a truth table, flags) takes it
// first.
#pragma once

#include <bit>
#include <tuple>
#include <type_traits>
#include <utility>

#include "launch.h"

namespace slim::emulator {

// Registers of up to 32 bits lie in 32-bit words (the upper bits zero), others in 64-bit words.
template <class T>
using Word = std::conditional_t<sizeof(T) == 8, uint64_t, uint32_t>;

template <class T>
T unpack(Word<T> word) {
  if constexpr (sizeof(T) >= 4)
    return std::bit_cast<T>(word);
  else if constexpr (sizeof(T) == 2)
    return std::bit_cast<T>(static_cast<uint16_t>(word));
  else
    return std::bit_cast<T>(static_cast<uint8_t>(word));
}

template <class T>
Word<T> pack(T value) {
  if constexpr (sizeof(T) >= 4)
    return std::bit_cast<Word<T>>(value);
  else if constexpr (sizeof(T) == 2)
    return std::bit_cast<uint16_t>(value);
  else
    return std::bit_cast<uint8_t>(value);
}

template <class F>
void forLanes(uint32_t mask, F f) {
  for (; mask != 0; mask &= mask - 1) f(__builtin_ctz(mask));
}

template <class Op, class D, class... S, size_t... I>
void laneLoop(Warp& warp, const MicroOp& op, uint32_t mask, std::index_sequence<I...>) {
  Word<D>* result = warp.lanes<Word<D>>(op.slots[0]);
  const std::tuple<const Word<S>*...> sources{warp.lanes<Word<S>>(op.slots[I + 1])...};
  const auto one = [&](int lane) {
    if constexpr (std::is_invocable_v<Op, const MicroOp&, S...>) {
      result[lane] = pack<D>(Op{}(op, unpack<S>(std::get<I>(sources)[lane])...));
    } else {
      result[lane] = pack<D>(Op{}(unpack<S>(std::get<I>(sources)[lane])...));
    }
  };
  if (mask == kFullMask) {
    // A result may be one of the sources, but then of the same lane.
#pragma GCC ivdep
    for (int lane = 0; lane < kLanes; lane++) one(lane);
  } else {
    forLanes(mask, one);
  }
}

template <class Op, class D, class... S>
void laneOperation(Warp& warp, const MicroOp& op, uint32_t mask) {
  laneLoop<Op, D, S...>(warp, op, mask, std::index_sequence_for<S...>{});
}

}  // namespace slim::emulator
