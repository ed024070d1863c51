// OpenBLAS for gemm.mjs and the comparisons of packed kernels: a shared library opened at run time, and
// products timed without JavaScript in between.
#include <dlfcn.h>
#include <node_api.h>
#include <stdint.h>
#include <time.h>

// The enumerations of cblas.h.
enum { kRowMajor = 101, kNoTrans = 111, kTrans = 112, kUpper = 121 };

static void (*sgemm)(int order, int transA, int transB, int m, int n, int k, float alpha, const float* a,
                     int lda, const float* b, int ldb, float beta, float* c, int ldc);
static void (*sgemv)(int order, int trans, int m, int n, float alpha, const float* a, int lda, const float* x,
                     int incx, float beta, float* y, int incy);
static void (*ssyrk)(int order, int uplo, int trans, int n, int k, float alpha, const float* a, int lda,
                     float beta, float* c, int ldc);
static void (*setThreads)(int threads);
static const char* (*coreName)(void);

static napi_value string(napi_env env, const char* text) {
  napi_value value;
  napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &value);
  return value;
}

// open(path): the name of OpenBLAS's kernels for this processor, or null when the library cannot be opened.
static napi_value openLibrary(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument, null;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  napi_get_null(env, &null);
  char path[4096];
  if (napi_get_value_string_utf8(env, argument, path, sizeof path, NULL) != napi_ok) return null;
  void* library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!library) return null;
  sgemm = dlsym(library, "cblas_sgemm");
  sgemv = dlsym(library, "cblas_sgemv");
  ssyrk = dlsym(library, "cblas_ssyrk");
  setThreads = dlsym(library, "openblas_set_num_threads");
  coreName = dlsym(library, "openblas_get_corename");
  return sgemm && sgemv && ssyrk && setThreads && coreName ? string(env, coreName()) : null;
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// run(m, n, k, a, b, c, threads, repeats): mean seconds of C = A·Bᵀ, or, with b null, of the upper triangle
// of AᵀA (a [k, m]). b may hold several matrices one after the other, which take turns: weights that no cache
// holds. One row of A is a matrix times a vector to OpenBLAS too.
static napi_value run(napi_env env, napi_callback_info info) {
  size_t count = 8;
  napi_value arguments[8], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  const int numeric[5] = {0, 1, 2, 6, 7};
  int32_t numbers[8] = {0};
  float* arrays[8] = {0};
  size_t lengths[8] = {0};
  for (int i = 0; i < 5; ++i) napi_get_value_int32(env, arguments[numeric[i]], &numbers[numeric[i]]);
  for (int i = 3; i < 6; ++i) {
    bool isArray = false;
    napi_is_typedarray(env, arguments[i], &isArray);
    if (isArray)
      napi_get_typedarray_info(env, arguments[i], NULL, &lengths[i], (void**)&arrays[i], NULL, NULL);
  }
  const int m = numbers[0], n = numbers[1], k = numbers[2], repeats = numbers[7];
  const size_t matrix = (size_t)n * (size_t)k, copies = arrays[4] ? lengths[4] / matrix : 1;
  setThreads(numbers[6]);
  const double start = seconds();
  for (int r = 0; r < repeats; ++r) {
    const float* b = arrays[4] ? arrays[4] + (size_t)r % copies * matrix : NULL;
    if (b && m == 1)
      sgemv(kRowMajor, kNoTrans, n, k, 1.0f, b, k, arrays[3], 1, 0.0f, arrays[5], 1);
    else if (b)
      sgemm(kRowMajor, kNoTrans, kTrans, m, n, k, 1.0f, arrays[3], k, b, k, 0.0f, arrays[5], n);
    else
      ssyrk(kRowMajor, kUpper, kTrans, m, k, 1.0f, arrays[3], m, 1.0f, arrays[5], n);
  }
  napi_create_double(env, (seconds() - start) / repeats, &result);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "open", NAPI_AUTO_LENGTH, openLibrary, NULL, &function);
  napi_set_named_property(env, exports, "open", function);
  napi_create_function(env, "run", NAPI_AUTO_LENGTH, run, NULL, &function);
  napi_set_named_property(env, exports, "run", function);
  return exports;
}
