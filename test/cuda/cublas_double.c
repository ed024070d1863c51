// Stands in for libcublas.so on the emulated driver: cublasGemmEx as cuBLAS documents it, column-major, by plain loops on
// the host. In a capture, where nothing can be computed, only the number of products is right: the first one of a handle
// is computed, the others leave what it gave.
#include <dlfcn.h>
#include <stdlib.h>

enum { SUCCESS = 0, INVALID_VALUE = 7, HALF = 2, SUMS_IN_FLOAT = 68 };

struct Context {
  void* stream;
  size_t workspace;
  int products;
};

typedef unsigned long long Address;

static void* driver(const char* name) {
  return dlsym(dlopen(getenv("SLIMLLM_CUDA_DRIVER"), RTLD_NOW), name);
}

int cublasCreate_v2(void** handle) {
  *handle = calloc(1, sizeof(struct Context));
  return SUCCESS;
}

int cublasDestroy_v2(void* handle) {
  free(handle);
  return SUCCESS;
}

int cublasGetVersion_v2(void* handle, int* version) {
  (void)handle;
  *version = 1;
  return SUCCESS;
}

int cublasSetStream_v2(void* handle, void* stream) {
  ((struct Context*)handle)->stream = stream;
  return SUCCESS;
}

int cublasSetWorkspace_v2(void* handle, void* workspace, size_t bytes) {
  ((struct Context*)handle)->workspace = workspace ? bytes : 0;
  return SUCCESS;
}

static _Float16* fromDevice(struct Context* context, const void* address, size_t count) {
  int (*copy)(void*, Address, size_t, void*) = driver("cuMemcpyDtoHAsync_v2");
  _Float16* values = malloc(count * sizeof *values);
  copy(values, (Address)address, count * sizeof *values, context->stream);
  return values;
}

int cublasGemmEx(void* handle, int transposeA, int transposeB, int m, int n, int k, const void* alpha,
                 const void* a, int typeA, int lda, const void* b, int typeB, int ldb, const void* beta,
                 void* c, int typeC, int ldc, int computeType, int algorithm) {
  struct Context* context = handle;
  if (typeA != HALF || typeB != HALF || typeC != HALF || computeType != SUMS_IN_FLOAT) return INVALID_VALUE;
  if (algorithm != -1 || context->workspace == 0 || *(const float*)beta != 0) return INVALID_VALUE;
  if (lda < (transposeA ? k : m) || ldb < (transposeB ? n : k) || ldc < m) return INVALID_VALUE;
  if (context->products++ > 0) return SUCCESS;
  _Float16* left = fromDevice(context, a, (size_t)lda * (transposeA ? m : k));
  _Float16* right = fromDevice(context, b, (size_t)ldb * (transposeB ? k : n));
  _Float16* out = calloc((size_t)ldc * n, sizeof *out);
  for (int j = 0; j < n; ++j)
    for (int i = 0; i < m; ++i) {
      float sum = 0;
      for (int l = 0; l < k; ++l)
        sum += (float)left[transposeA ? l + (size_t)i * lda : i + (size_t)l * lda] *
               (float)right[transposeB ? j + (size_t)l * ldb : l + (size_t)j * ldb];
      out[i + (size_t)j * ldc] = (_Float16)(*(const float*)alpha * sum);
    }
  int (*copy)(Address, const void*, size_t, void*) = driver("cuMemcpyHtoDAsync_v2");
  const int result = copy((Address)c, out, sizeof *out * ldc * n, context->stream);
  free(left);
  free(right);
  free(out);
  return result;
}
