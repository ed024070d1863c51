// The end of the model backwards, on a device (decoder/head_gradient.h).
#pragma once
#include <memory>

#include "cuda/device_states.h"
#include "decoder/head_gradient.h"

namespace slim::cuda {

/// As slim::headGradient. Labels are drawn by the same numbers as the CPU's: they differ where the number
/// lies within rounding of the boundary between two. The caller does not hold device.use().
Status headGradient(const Head& head, const Labels& labels, DeviceStates& states, size_t sequenceLength,
                    std::shared_ptr<DeviceStates>& gradients, HeadGradient& out, ThreadPool& pool,
                    const CancelFlag& cancelled);

}  // namespace slim::cuda
