// Minimax polynomials of float32 kernels, the highest power first: the CPU's vectors and the GPU's lanes
// evaluate the same ones, by fused multiply-adds, and so get the same bits.
#pragma once

namespace slim {

/// (2^f − 1) / f for |f| ≤ ½; 1 + f times it is 2^f with relative error 8e-8, and 2^0 = 1.
struct Exp2Polynomial {
  static constexpr float k5 = 0.00015594677824992687f, k4 = 0.0013406643411144614f,
                         k3 = 0.009617692790925503f, k2 = 0.055503103882074356f, k1 = 0.24022652208805084f,
                         k0 = 0.6931472420692444f;
};

/// log2(1 + t) / t for 0 ≤ t < 1, absolute error 2.1e-6.
struct Log2Polynomial {
  static constexpr float k5 = -0.026457449421286583f, k4 = 0.12345149368047714f, k3 = -0.2795381546020508f,
                         k2 = 0.458270788192749f, k1 = -0.7182819247245789f, k0 = 1.4425530433654785f;
};

}  // namespace slim
