// How much each group matters to the layer's output (METHODS: step 2).
#pragma once
#include <vector>

#include "core/thread_pool.h"
#include "quant/groups.h"

namespace slim {

/// Σ over the group's columns j and all rows of w² / U_jj²; `diagonal` [cols] is that of U with the
/// salience's damping.
std::vector<double> groupSalience(const GroupedWeight& weight, const float* diagonal, ThreadPool& pool);

}  // namespace slim
