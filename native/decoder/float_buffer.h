// Scratch memory for float32 that starts on a cache line: an AVX-512 load of such a row never straddles two
// lines.
#pragma once
#include <cstddef>
#include <memory>
#include <new>

namespace slim {

class FloatBuffer {
 public:
  /// At least `count` floats; what was there is lost when it grows. Not zeroed.
  float* reserve(size_t count) {
    if (count > capacity_) {
      capacity_ = 0;
      data_.reset();
      data_.reset(static_cast<float*>(::operator new(count * sizeof(float), kAlignment)));
      capacity_ = count;
    }
    return data_.get();
  }
  float* data() const { return data_.get(); }

 private:
  static constexpr std::align_val_t kAlignment{64};
  struct Delete {
    void operator()(float* p) const { ::operator delete(p, kAlignment); }
  };
  std::unique_ptr<float, Delete> data_;
  size_t capacity_ = 0;
};

}  // namespace slim
