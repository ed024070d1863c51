#include "decoder/activation.h"

#include <algorithm>

#include "decoder/kernels.h"

namespace slim {

void activate(Activation activation, float* x, size_t n) {
  const DecoderKernels& kernels = decoderKernels();
  switch (activation) {
    case Activation::Silu:
      return kernels.silu(x, n);
    case Activation::Gelu:
      return kernels.gelu(x, n);
    case Activation::GeluTanh:
      return kernels.geluTanh(x, n);
    case Activation::Relu:
      for (size_t i = 0; i < n; ++i) x[i] = x[i] > 0 ? x[i] : 0;
      return;
  }
}

void activateRows(ThreadPool& pool, Activation activation, size_t rows, size_t width, float* x,
                  const float* up, size_t stride) {
  constexpr size_t kRows = 8;
  pool.parallelFor((rows + kRows - 1) / kRows, [&](size_t tile, int) {
    for (size_t r = tile * kRows; r < std::min(rows, (tile + 1) * kRows); ++r) {
      float* row = x + r * stride;
      activate(activation, row, width);
      if (!up) continue;
      const float* factor = up + r * stride;
      for (size_t i = 0; i < width; ++i) row[i] *= factor[i];
    }
  });
}

void activationGradient(Activation activation, float* x, size_t n) {
  const DecoderKernels& kernels = decoderKernels();
  switch (activation) {
    case Activation::Silu:
      return kernels.siluGradient(x, n);
    case Activation::Gelu:
      return kernels.geluGradient(x, n);
    case Activation::GeluTanh:
      return kernels.geluTanhGradient(x, n);
    case Activation::Relu:
      for (size_t i = 0; i < n; ++i) x[i] = x[i] > 0 ? 1.0f : 0.0f;
      return;
  }
}

void activateRowsBackward(ThreadPool& pool, Activation activation, size_t rows, size_t width, const float* x,
                          const float* up, float* gradients, size_t stride) {
  constexpr size_t kRows = 8, kChunk = 512;
  pool.parallelFor((rows + kRows - 1) / kRows, [&](size_t tile, int) {
    float value[kChunk], slope[kChunk];
    for (size_t r = tile * kRows; r < std::min(rows, (tile + 1) * kRows); ++r)
      for (size_t start = 0; start < width; start += kChunk) {
        const size_t n = std::min(kChunk, width - start), at = r * stride + start;
        std::copy_n(x + at, n, slope);
        activationGradient(activation, slope, n);
        float* dx = gradients + at;
        if (!up) {
          for (size_t i = 0; i < n; ++i) dx[i] *= slope[i];
          continue;
        }
        std::copy_n(x + at, n, value);
        activate(activation, value, n);
        float* dUp = dx + width;
        for (size_t i = 0; i < n; ++i) {
          dx[i] = dUp[i] * up[at + i] * slope[i];
          dUp[i] *= value[i];
        }
      }
  });
}

}  // namespace slim
