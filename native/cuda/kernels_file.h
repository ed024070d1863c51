// kernels.fatbin: what nvcc made of native/cuda/kernels.cu, with a trailer that scripts/build-cuda.mjs
// appends.
#pragma once
#include <memory>
#include <string>

#include "core/mapped_file.h"

namespace slim::cuda {

/// The file that SLIMLLM_CUDA_KERNELS names, else kernels.fatbin beside the addon, else the package's
/// prebuilds/kernels.fatbin (one for all platforms). Checked: its version, its
/// length and its hash.
Status openKernelsFile(std::shared_ptr<MappedFile>& out);
std::string kernelsPath();

}  // namespace slim::cuda
