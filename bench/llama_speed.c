// Prompt and decode speed of llama.cpp for generate_peers.mjs: the shared libraries of node-llama-cpp in this
// process.
#include <ggml-backend.h>
#include <ggml-cpu.h>
#include <llama.h>
#include <node_api.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { kMaxThreads = 256 };

struct Session {
  struct llama_model* model;
  struct llama_context* context;
};

static napi_value fail(napi_env env, const char* what) {
  napi_throw_error(env, NULL, what);
  return NULL;
}

static void printErrors(enum ggml_log_level level, const char* text, void* unused) {
  (void)unused;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// open(folder of the libraries)
static napi_value openLibraries(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  char folder[4096];
  if (napi_get_value_string_utf8(env, argument, folder, sizeof folder, NULL) != napi_ok)
    return fail(env, "open: expected a folder");
  llama_log_set(printErrors, NULL);
  ggml_backend_load_all_from_path(folder);
  llama_backend_init();
  return NULL;
}

// load(file, context tokens): a handle. All settings are llama.cpp's own: mapped file, repacked weights where
// it has kernels for them, float16 cache.
static napi_value load(napi_env env, napi_callback_info info) {
  size_t count = 2;
  napi_value arguments[2], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  char file[4096];
  int32_t tokens = 0;
  napi_get_value_string_utf8(env, arguments[0], file, sizeof file, NULL);
  napi_get_value_int32(env, arguments[1], &tokens);
  struct Session* session = calloc(1, sizeof *session);
  session->model = llama_model_load_from_file(file, llama_model_default_params());
  if (!session->model) return fail(env, "load: cannot read the model");
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = (uint32_t)tokens;
  session->context = llama_init_from_model(session->model, params);
  if (!session->context) return fail(env, "load: cannot make a context");
  napi_create_external(env, session, NULL, NULL, &result);
  return result;
}

// One pool for each number of threads, as long as the process lives: a context holds on to the last that it
// had. After a call its threads look for more work for a third of a second, which the next participant has to
// wait for.
static struct ggml_threadpool* threadpool(int threads) {
  static struct ggml_threadpool* pools[kMaxThreads + 1];
  if (threads < 1 || threads > kMaxThreads) return NULL;
  if (!pools[threads]) {
    struct ggml_threadpool_params params = ggml_threadpool_params_default(threads);
    ggml_backend_dev_t device = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    struct ggml_threadpool* (*newPool)(struct ggml_threadpool_params*) =
        ggml_backend_reg_get_proc_address(ggml_backend_dev_backend_reg(device), "ggml_threadpool_new");
    pools[threads] = newPool(&params);
  }
  return pools[threads];
}

static llama_token likeliest(const float* logits, int vocabulary) {
  llama_token best = 0;
  for (llama_token i = 1; i < vocabulary; ++i)
    if (logits[i] > logits[best]) best = i;
  return best;
}

// speed(handle, prompt ids, tokens to decode, threads): [seconds of the prompt, seconds of the tokens after
// it], the likeliest token always, whether it ends the text or not.
static napi_value speed(napi_env env, napi_callback_info info) {
  size_t count = 4, length = 0;
  napi_value arguments[4], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  struct Session* session = NULL;
  void* ids = NULL;
  int32_t tokens = 0, threads = 0;
  napi_get_value_external(env, arguments[0], (void**)&session);
  napi_get_typedarray_info(env, arguments[1], NULL, &length, &ids, NULL, NULL);
  napi_get_value_int32(env, arguments[2], &tokens);
  napi_get_value_int32(env, arguments[3], &threads);
  struct ggml_threadpool* pool = threadpool(threads);
  if (!pool) return fail(env, "speed: expected 1 to 256 threads");
  llama_attach_threadpool(session->context, pool, pool);
  llama_set_n_threads(session->context, threads, threads);
  llama_memory_clear(llama_get_memory(session->context), true);

  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(session->model));
  double times[2];
  double start = seconds();
  int status = llama_decode(session->context, llama_batch_get_one(ids, (int32_t)length));
  llama_token next = status == 0 ? likeliest(llama_get_logits_ith(session->context, -1), vocabulary) : 0;
  times[0] = seconds() - start;
  start = seconds();
  for (int i = 0; i < tokens && status == 0; ++i) {
    status = llama_decode(session->context, llama_batch_get_one(&next, 1));
    if (status == 0) next = likeliest(llama_get_logits_ith(session->context, -1), vocabulary);
  }
  times[1] = seconds() - start;
  if (status != 0) return fail(env, "speed: llama.cpp cannot evaluate the tokens");
  napi_create_array_with_length(env, 2, &result);
  for (uint32_t i = 0; i < 2; ++i) {
    napi_value time;
    napi_create_double(env, times[i], &time);
    napi_set_element(env, result, i, time);
  }
  return result;
}

// dispose(handle), once.
static napi_value dispose(napi_env env, napi_callback_info info) {
  size_t count = 1;
  napi_value argument;
  napi_get_cb_info(env, info, &count, &argument, NULL, NULL);
  struct Session* session = NULL;
  napi_get_value_external(env, argument, (void**)&session);
  llama_free(session->context);
  llama_model_free(session->model);
  free(session);
  return NULL;
}

NAPI_MODULE_INIT() {
  const struct {
    const char* name;
    napi_callback call;
  } functions[] = {{"open", openLibraries}, {"load", load}, {"speed", speed}, {"dispose", dispose}};
  for (size_t i = 0; i < sizeof functions / sizeof *functions; ++i) {
    napi_value function;
    napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call, NULL, &function);
    napi_set_named_property(env, exports, functions[i].name, function);
  }
  return exports;
}
