// What each width would cost each group: the score of the allocation to a stored budget (METHODS: section 2).
//
//   errors(g, b) = L_b · a(g, b) / Σ_g a(g, b)
//
// a(g, b) = Σ_o f_o Σ_j e²_oj / U_jj² divides a layer's cost among its groups: e is the error of the group as
// it stands, fitted at b bits, 1/U_jj² what is left of it when later columns have made up for it. L_b is what
// GPTQ measurably leaves with all groups at b bits: what columns take over from others makes them harder to
// quantize, at one bit by some 30 % more than at two, and of some layers more than of others.
#pragma once
#include <functional>
#include <vector>

#include "core/status.h"
#include "core/thread_pool.h"
#include "quant/cholesky.h"
#include "quant/groups.h"
#include "quant/quantizer.h"

namespace slim {

struct GroupErrorWeights {
  const InverseFactor& factor;  // U
  const float* h;               // [cols] diagonal of the Hessian, for Quantizer::Wide
  const double* rows;           // [rows] f_o: what an error of each output costs, e.g. its Fisher information
};

/// Losses of all rows, Σ_j e_j², that GPTQ leaves with every group at `bits` bits.
using MeasureLosses = std::function<Status(int bits, std::vector<double>& losses)>;
/// L_b / Σ_g a(g, b) times `errors`, which come as a(g, b): [groups][mostBits]. Beyond three bits the ratio
/// is that of three.
Status scaleToLosses(int mostBits, const double* rows, const MeasureLosses& measure,
                     std::vector<double>& errors);

/// errors[group * mostBits + b − 1] for widths b = 1 … mostBits.
Status groupErrors(const GroupedWeight& weight, const GroupErrorWeights& weights, int mostBits,
                   Quantizer quantizer, ThreadPool& pool, const CancelFlag& cancelled,
                   std::vector<double>& errors);

}  // namespace slim
