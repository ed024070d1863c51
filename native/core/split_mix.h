// SplitMix64 (Steele, Lea, Flood 2014), the stream of lib/random.ts.
#pragma once
#include <cstdint>

namespace slim {

class SplitMix64 {
 public:
  /// Of the state, from number to number.
  static constexpr uint64_t kStep = 0x9e3779b97f4a7c15;

  explicit SplitMix64(uint64_t seed) : state_(seed) {}

  /// 64 uniform bits.
  uint64_t next() {
    uint64_t z = state_ += kStep;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return z ^ (z >> 31);
  }
  /// Uniform in [0, 1), 53 bits.
  double uniform() { return double(next() >> 11) * 0x1p-53; }

 private:
  uint64_t state_;
};

}  // namespace slim
