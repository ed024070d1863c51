// Dense float32 products of matrices on a device.
#pragma once
#include "cuda/device.h"

namespace slim::cuda {

/// A matrix of float32 on a device: element (i, k) is data[i · stride + k], or data[k · stride + i].
struct DeviceOperand {
  DeviceAddress data = 0;
  size_t stride = 0;  // in elements
  bool byColumns = false;

  static DeviceOperand rowMajor(DeviceAddress data, size_t stride) { return {data, stride, false}; }
  static DeviceOperand columnMajor(DeviceAddress data, size_t stride) { return {data, stride, true}; }
};

/// Several products of one shape, whose matrices lie so many elements apart.
struct MultiplyBatch {
  size_t count = 1, aApart = 0, bApart = 0, cApart = 0;
};

struct MultiplyOptions {
  float alpha = 1;
  bool accumulate = false;  // C += alpha·A·Bᵀ instead of C = alpha·A·Bᵀ
  bool upperOnly = false;   // only tiles that touch j ≥ i are written (C square): for symmetric products
  MultiplyBatch batch = {};
};

/// Queues C[m, n] = alpha · A[m, k] · B[n, k]ᵀ (+ C), C with row stride ldc ≥ n. No element of C is one of A
/// or B, but they may lie in other columns of the same rows. Terms are exact to 2^-21 |a||b|; sums are
/// float32, of k / 8 of them. The bits depend on the shape and on the device's number of multiprocessors. The
/// caller holds device.use().
Status multiply(Device& device, size_t m, size_t n, size_t k, const DeviceOperand& a, const DeviceOperand& b,
                DeviceAddress c, size_t ldc, const MultiplyOptions& options = {});

}  // namespace slim::cuda
