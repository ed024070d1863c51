#include "cuda/cublas.h"

#include <dlfcn.h>

namespace slim::cuda {
namespace {

// cublasOperation_t, cudaDataType, cublasComputeType_t, cublasGemmAlgo_t
constexpr int kAsItIs = 0, kTransposed = 1, kFloat16 = 2, kSumsInFloat32 = 68, kDefaultAlgorithm = -1;
// What cuBLAS asks for on Hopper. Its own would be allocated inside a recorded graph.
constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr const char* kLibraries[] = {"libcublas.so.13", "libcublas.so.12", "libcublas.so.11",
                                      "libcublas.so"};

Status unavailable(const std::string& message) {
  Status status = Status::error("SLIM_DEVICE_UNAVAILABLE", message);
  status.parameter = "library";
  status.remedy = "Give the path of libcublas.so, or leave the comparison out";
  return status;
}

// A library stays open as long as the process.
Status openLibrary(const std::string& named, void*& library, std::string& name) {
  std::string reasons;
  const auto tryOne = [&](const char* candidate) {
    library = dlopen(candidate, RTLD_NOW | RTLD_LOCAL);
    if (library)
      name = candidate;
    else
      reasons += (reasons.empty() ? "" : "; ") + std::string(dlerror());
    return library != nullptr;
  };
  if (!named.empty()) {
    if (tryOne(named.c_str())) return Status::success();
  } else {
    for (const char* candidate : kLibraries)
      if (tryOne(candidate)) return Status::success();
  }
  return unavailable("cuBLAS cannot be opened: " + reasons);
}

}  // namespace

Status Cublas::open(Device& device, const std::string& library, std::unique_ptr<Cublas>& out) {
  std::unique_ptr<Cublas> cublas(new Cublas());
  SLIM_RETURN_IF_ERROR(cublas->start(device, library));
  out = std::move(cublas);
  return Status::success();
}

Cublas::~Cublas() {
  if (handle_) functions_.destroy(handle_);
}

Status Cublas::start(Device& device, const std::string& named) {
  void* library = nullptr;
  std::string name, missing;
  SLIM_RETURN_IF_ERROR(openLibrary(named, library, name));
  const auto find = [&](auto& function, const char* symbol) {
    void* found = dlsym(library, symbol);
    if (!found && missing.empty()) missing = symbol;
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(found);
  };
  find(functions_.create, "cublasCreate_v2");
  find(functions_.destroy, "cublasDestroy_v2");
  find(functions_.getVersion, "cublasGetVersion_v2");
  find(functions_.setStream, "cublasSetStream_v2");
  find(functions_.setWorkspace, "cublasSetWorkspace_v2");
  find(functions_.gemm, "cublasGemmEx");
  if (!missing.empty()) return unavailable(name + " has no " + missing);
  // The context of the device is current, and is its primary one: the runtime API's, which cuBLAS takes.
  SLIM_RETURN_IF_ERROR(check(functions_.create(&handle_), "cublasCreate"));
  int version = 0;
  SLIM_RETURN_IF_ERROR(check(functions_.getVersion(handle_, &version), "cublasGetVersion"));
  description_ = name + ", version " + std::to_string(version);
  SLIM_RETURN_IF_ERROR(check(functions_.setStream(handle_, device.stream()), "cublasSetStream"));
  SLIM_RETURN_IF_ERROR(device.allocate(kWorkspaceBytes, "cuBLAS's workspace", workspace_));
  return check(
      functions_.setWorkspace(handle_, reinterpret_cast<void*>(workspace_.address()), workspace_.bytes()),
      "cublasSetWorkspace");
}

Status Cublas::check(Result result, const char* function) {
  if (result == 0) return Status::success();
  return Status::error("SLIM_DEVICE_FAILED",
                       std::string(function) + " failed: cublasStatus_t " + std::to_string(result));
}

// Row-major matrices are cuBLAS's transposed: y read as [rows, tokens] is weight · xᵀ.
Status Cublas::multiply(DeviceAddress x, DeviceAddress weight, DeviceAddress y, size_t tokens, size_t rows,
                        size_t cols) {
  const float one = 1, zero = 0;
  const auto pointer = [](DeviceAddress address) { return reinterpret_cast<void*>(address); };
  return check(functions_.gemm(handle_, kTransposed, kAsItIs, int(rows), int(tokens), int(cols), &one,
                               pointer(weight), kFloat16, int(cols), pointer(x), kFloat16, int(cols), &zero,
                               pointer(y), kFloat16, int(rows), kSumsInFloat32, kDefaultAlgorithm),
               "cublasGemmEx");
}

}  // namespace slim::cuda
