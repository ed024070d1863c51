// cuBLAS, opened at run time: what benchmarks compare with. Nothing else needs it.
#pragma once
#include <memory>
#include <string>

#include "cuda/device.h"

namespace slim::cuda {

class Cublas {
 public:
  /// Opens `library`, or where that is empty the newest libcublas.so that the loader finds. The caller holds
  /// device.use().
  static Status open(Device& device, const std::string& library, std::unique_ptr<Cublas>& out);
  ~Cublas();
  Cublas(const Cublas&) = delete;
  Cublas& operator=(const Cublas&) = delete;

  /// The library's name and version.
  const std::string& description() const { return description_; }
  /// Queues y [tokens, rows] = x [tokens, cols] · weightᵀ, float16 with sums in float32.
  Status multiply(DeviceAddress x, DeviceAddress weight, DeviceAddress y, size_t tokens, size_t rows,
                  size_t cols);

 private:
  using Result = int;  // cublasStatus_t
  struct Functions {
    Result (*create)(Handle* handle);
    Result (*destroy)(Handle handle);
    Result (*getVersion)(Handle handle, int* version);
    Result (*setStream)(Handle handle, Handle stream);
    Result (*setWorkspace)(Handle handle, void* workspace, size_t bytes);
    Result (*gemm)(Handle handle, int transposeA, int transposeB, int m, int n, int k, const void* alpha,
                   const void* a, int typeA, int lda, const void* b, int typeB, int ldb, const void* beta,
                   void* c, int typeC, int ldc, int computeType, int algorithm);
  };

  Cublas() = default;
  Status start(Device& device, const std::string& library);
  static Status check(Result result, const char* function);

  Functions functions_{};
  Handle handle_ = nullptr;
  DeviceBuffer<uint8_t> workspace_;
  std::string description_;
};

}  // namespace slim::cuda
