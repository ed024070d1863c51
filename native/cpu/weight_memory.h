// Memory for weights that are read from end to end at every token.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

#include "core/status.h"

namespace slim {

/// `bytes` zero bytes on a cache line. Successive matrices of a model lie side by side in 2 MiB pages (few of
/// them would fill one alone), which are given back when the last of their owners is gone.
Status allocateWeights(size_t bytes, std::shared_ptr<uint8_t>& out);

}  // namespace slim
