// What each width would cost each group: the score of the allocation to a stored budget (METHODS: section 2).
#pragma once
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "quant/groups.h"
#include "quant/quantizer.h"

namespace slim {

struct GroupErrorWeights {
  const float* factorDiagonal;  // [cols] U_jj: what GPTQ cannot make up for costs e² / U_jj²
  const float* h;               // [cols] diagonal of the Hessian, for Quantizer::Wide
  const double* rows;           // [rows] what an error of each output costs, e.g. its Fisher information
};

/// errors[group * mostBits + b − 1] = Σ_o rows_o Σ_j e²_oj / U_jj² for widths b = 1 … mostBits, e the error
/// of the group as it stands, fitted at b bits.
/// Incomplete when cancelled.
std::vector<double> groupErrors(const GroupedWeight& weight, const GroupErrorWeights& weights, int mostBits,
                                Quantizer quantizer, ThreadPool& pool, const CancelFlag& cancelled);

}  // namespace slim
