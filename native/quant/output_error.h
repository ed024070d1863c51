// The error of a quantized layer's outputs, through the Hessian of its inputs.
#pragma once
#include "core/thread_pool.h"
#include "quant/packed_matrix.h"

namespace slim {

/// ‖(W − Q) X‖ / ‖W X‖ = √(tr(ΔHΔᵀ) / tr(WHWᵀ)), Frobenius. w [rows, cols]; h [cols, cols] symmetric, H or
/// any multiple of it. 0 when the original's outputs are all zero.
Status relativeOutputError(const float* w, const PackedMatrix& quantized, const float* h, ThreadPool& pool,
                           const CancelFlag& cancelled, double& out);

}  // namespace slim
