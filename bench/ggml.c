// Quantized matrix products of ggml for packed_peers.mjs: graphs of mul_mat nodes, each with its own copy of
// the weights, on the processor's backend of the libraries that node-llama-cpp ships.
#include <ggml-alloc.h>
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <ggml.h>
#include <node_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// Functions of the backend's library, which is chosen and opened at run time.
static ggml_backend_dev_t device;
static ggml_backend_t backend;
static ggml_backend_set_n_threads_t setThreads;
static struct ggml_threadpool* (*newPool)(struct ggml_threadpool_params*);
static void (*freePool)(struct ggml_threadpool*);
static void (*setPool)(ggml_backend_t, struct ggml_threadpool*);
static ggml_backend_dev_get_extra_bufts_t extraBufferTypes;

// Weights [copies][rows, cols], input [tokens, cols], a product node for each copy.
struct Products {
  struct ggml_context *weights, *activations;
  ggml_backend_buffer_t weightBuffer, activationBuffer;
  struct ggml_cgraph* graph;
  struct ggml_tensor* last;
  int copies;
};

static napi_value fail(napi_env env, const char* what) {
  napi_throw_error(env, NULL, what);
  return NULL;
}

static int32_t integer(napi_env env, napi_value value) {
  int32_t number = 0;
  napi_get_value_int32(env, value, &number);
  return number;
}

static void* arrayData(napi_env env, napi_value value, size_t* length) {
  void* data = NULL;
  napi_get_typedarray_info(env, value, NULL, length, &data, NULL, NULL);
  return data;
}

static void printErrors(enum ggml_log_level level, const char* text, void* unused) {
  (void)unused;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

// open(folder of the libraries)
static napi_value openBackend(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  char folder[4096];
  if (napi_get_value_string_utf8(env, argument, folder, sizeof folder, NULL) != napi_ok)
    return fail(env, "open: expected a folder");
  ggml_log_set(printErrors, NULL);
  ggml_backend_load_all_from_path(folder);
  device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  backend = device ? ggml_backend_dev_init(device, NULL) : NULL;
  if (!backend) return fail(env, "open: no processor backend in the folder");
  ggml_backend_reg_t registry = ggml_backend_dev_backend_reg(device);
  setThreads = ggml_backend_reg_get_proc_address(registry, "ggml_backend_set_n_threads");
  newPool = ggml_backend_reg_get_proc_address(registry, "ggml_threadpool_new");
  freePool = ggml_backend_reg_get_proc_address(registry, "ggml_threadpool_free");
  setPool = ggml_backend_reg_get_proc_address(registry, "ggml_backend_cpu_set_threadpool");
  extraBufferTypes = ggml_backend_reg_get_proc_address(registry, "ggml_backend_dev_get_extra_bufts");
  if (!setThreads || !newPool || !freePool || !setPool || !extraBufferTypes)
    return fail(env, "open: the backend lacks a function of this release");
  return NULL;
}

// The buffer type that repacks weights for this product's kernels, as llama.cpp looks for one when it loads a
// model.
static ggml_backend_buffer_type_t repackingType(struct ggml_tensor* weight, struct ggml_tensor* product) {
  for (ggml_backend_buffer_type_t* type = extraBufferTypes(device); type && *type; ++type) {
    ggml_backend_buffer_t empty = ggml_backend_buft_alloc_buffer(*type, 0);
    if (!empty) continue;
    weight->buffer = empty;
    const bool supported = ggml_backend_dev_supports_op(device, product);
    weight->buffer = NULL;
    ggml_backend_buffer_free(empty);
    if (supported) return *type;
  }
  return NULL;
}

static void freeProducts(struct Products* p) {
  ggml_backend_buffer_free(p->weightBuffer);
  ggml_backend_buffer_free(p->activationBuffer);
  ggml_free(p->weights);
  ggml_free(p->activations);
  free(p);
}

// make(type name, slab [slabRows, cols] float32, cols, rows, input [tokens, cols] float32, tokens, copies,
// repacked): a handle; null when there is no repacked form. The slab's quantized rows are repeated until
// there are `rows`.
static napi_value make(napi_env env, napi_callback_info info) {
  size_t count = 8, slabLength, inputLength;
  napi_value arguments[8], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  char name[32];
  napi_get_value_string_utf8(env, arguments[0], name, sizeof name, NULL);
  enum ggml_type type = GGML_TYPE_COUNT;
  for (int t = 0; t < GGML_TYPE_COUNT; ++t)
    if (ggml_type_name(t) && strcmp(ggml_type_name(t), name) == 0) type = t;
  if (type == GGML_TYPE_COUNT) return fail(env, "make: ggml has no type of this name");
  const float* slab = arrayData(env, arguments[1], &slabLength);
  const float* input = arrayData(env, arguments[4], &inputLength);
  const int cols = integer(env, arguments[2]), rows = integer(env, arguments[3]);
  const int tokens = integer(env, arguments[5]), copies = integer(env, arguments[6]);
  bool repacked = false;
  napi_get_value_bool(env, arguments[7], &repacked);
  if (cols % ggml_blck_size(type) != 0) return fail(env, "make: the type's blocks do not divide a row");

  struct Products* p = calloc(1, sizeof *p);
  p->copies = copies;
  const size_t nodes = (size_t)copies + 8;
  p->weights = ggml_init((struct ggml_init_params){nodes * ggml_tensor_overhead(), NULL, true});
  p->activations = ggml_init((struct ggml_init_params){
      2 * nodes * ggml_tensor_overhead() + ggml_graph_overhead_custom(nodes, false), NULL, true});
  struct ggml_tensor* x = ggml_new_tensor_2d(p->activations, GGML_TYPE_F32, cols, tokens);
  p->graph = ggml_new_graph_custom(p->activations, nodes, false);
  for (int c = 0; c < copies; ++c) {
    struct ggml_tensor* weight = ggml_new_tensor_2d(p->weights, type, cols, rows);
    p->last = ggml_mul_mat(p->activations, weight, x);
    ggml_build_forward_expand(p->graph, p->last);
  }
  ggml_backend_buffer_type_t bufferType = ggml_backend_dev_buffer_type(device);
  if (repacked) bufferType = repackingType(p->last->src[0], p->last);
  if (!bufferType) {
    freeProducts(p);
    napi_get_null(env, &result);
    return result;
  }
  p->weightBuffer = ggml_backend_alloc_ctx_tensors_from_buft(p->weights, bufferType);
  p->activationBuffer = ggml_backend_alloc_ctx_tensors(p->activations, backend);
  if (!p->weightBuffer || !p->activationBuffer) {
    freeProducts(p);
    return fail(env, "make: not enough memory");
  }

  const size_t rowBytes = ggml_row_size(type, cols), slabRows = slabLength / (size_t)cols;
  char* bytes = malloc(rowBytes * (size_t)rows);
  ggml_quantize_chunk(type, slab, bytes, 0, (int64_t)slabRows, cols, NULL);
  for (size_t r = slabRows; r < (size_t)rows; ++r)
    memcpy(bytes + r * rowBytes, bytes + (r % slabRows) * rowBytes, rowBytes);
  for (struct ggml_tensor* w = ggml_get_first_tensor(p->weights); w; w = ggml_get_next_tensor(p->weights, w))
    ggml_backend_tensor_set(w, bytes, 0, rowBytes * (size_t)rows);
  free(bytes);
  ggml_backend_tensor_set(x, input, 0, inputLength * sizeof *input);
  napi_create_external(env, p, NULL, NULL, &result);
  return result;
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// run(handle, threads): mean seconds of a product, over one pass through the copies. The threads do not
// outlive the call: they would look for more work for a third of a second, on a core that the next
// participant uses.
static napi_value run(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  struct Products* p = NULL;
  napi_get_value_external(env, arguments[0], (void**)&p);
  const int threads = integer(env, arguments[1]);
  struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
  struct ggml_threadpool* pool = newPool(&params);
  setPool(backend, pool);
  setThreads(backend, threads);
  const double start = seconds();
  const enum ggml_status status = ggml_backend_graph_compute(backend, p->graph);
  const double time = seconds() - start;
  setPool(backend, NULL);
  freePool(pool);
  if (status != GGML_STATUS_SUCCESS) return fail(env, "run: the graph failed");
  napi_create_double(env, time / p->copies, &result);
  return result;
}

// output(handle, y [tokens, rows] float32): the last copy's product.
static napi_value output(napi_env env, napi_callback_info info) {
  size_t count = 2, length;
  napi_value arguments[2];
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  struct Products* p = NULL;
  napi_get_value_external(env, arguments[0], (void**)&p);
  float* y = arrayData(env, arguments[1], &length);
  ggml_backend_tensor_get(p->last, y, 0, length * sizeof *y);
  return NULL;
}

// dispose(handle), once.
static napi_value dispose(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  struct Products* p = NULL;
  napi_get_value_external(env, argument, (void**)&p);
  freeProducts(p);
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {
      {"open", openBackend}, {"make", make}, {"run", run}, {"output", output}, {"dispose", dispose}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
