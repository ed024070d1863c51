// Codes for a whole matrix: group after group, with GPTQ's error compensation or without (METHODS: step 6).
#pragma once
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "quant/cholesky.h"
#include "quant/packed_matrix.h"
#include "quant/quantizer.h"

namespace slim {

/// Wall seconds spent on fitting quantizers, and on all the rest.
struct QuantizationSeconds {
  double quantizer = 0, compensation = 0;
};

struct GroupQuantization {
  Quantizer quantizer = Quantizer::MinMax;
  const float* h = nullptr;  // [cols] what an error of each column costs: the Hessian's diagonal; for Wide
  const InverseFactor* factor = nullptr;  // U: GPTQ; nullptr: no compensation
  /// Feeds back the errors of scales as fitted, not as stored: for comparison with references that do so.
  bool exactScales = false;
  /// [rows], or nullptr: Σ_j e_j² is added, e_j the error of column j over U_jj: what GPTQ leaves of the
  /// row's output error, (w − q) H (w − q)ᵀ.
  double* losses = nullptr;
};

/// Quantizes w [rows, cols] group by group, columns in natural order. With a factor U (GPTQ) each column's
/// error, divided by U_jj, is taken off the columns after it along row j of U, so that they make up for it,
/// and a group's quantizer is fitted to the weights as they are when their turn comes; w ends as the
/// compensated weights. Without, every group is quantized as it stands.
Status quantizeGroups(std::vector<float>& w, size_t rows, const Groups& groups,
                      const std::vector<uint8_t>& groupBits, const GroupQuantization& options,
                      ThreadPool& pool, const CancelFlag& cancelled, GroupCodes& out,
                      QuantizationSeconds& seconds);

}  // namespace slim
