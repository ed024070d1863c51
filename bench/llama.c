// llama.cpp for bench/llama.mjs: compiled with the headers, and run with the shared libraries, of one
// release.
//   tensors FILE                                        names, types and bytes
//   quantize SOURCE TARGET TYPE THREADS [IMPORTANCE]    TYPE: the number of a llama_ftype
//   importance MODEL IDS WINDOW THREADS IMPORTANCE      mean squares of the inputs of the blocks' matrices
//   perplexity MODEL IDS WINDOW THREADS
// IDS: int32 tokens, cut into windows that do not overlap. Prints JSON; what went wrong is on stderr.
#include <ggml-backend.h>
#include <gguf.h>
#include <llama.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { kMaxMatrices = 4096, kNameBytes = 128 };

struct Importance {
  char name[kNameBytes];
  int32_t columns;
  int64_t tokens;
  float* sums;
};
static struct Importance matrices[kMaxMatrices];
static int matrixCount = 0;

static int fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  return 1;
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void printErrors(enum ggml_log_level level, const char* text, void* unused) {
  (void)unused;
  if (level == GGML_LOG_LEVEL_ERROR) fputs(text, stderr);
}

static int listTensors(const char* path) {
  struct gguf_context* file = gguf_init_from_file(path, (struct gguf_init_params){.no_alloc = true});
  if (!file) return fail("cannot read the file");
  const int64_t count = gguf_get_n_tensors(file);
  for (int64_t i = 0; i < count; ++i)
    printf("%s{\"name\":\"%s\",\"type\":\"%s\",\"bytes\":%zu}", i ? "," : "[", gguf_get_tensor_name(file, i),
           ggml_type_name(gguf_get_tensor_type(file, i)), gguf_get_tensor_size(file, i));
  puts("]");
  gguf_free(file);
  return 0;
}

static int readImportance(const char* path) {
  FILE* file = fopen(path, "rb");
  if (!file) return fail("cannot read the importance matrix");
  struct Importance* m = matrices;
  for (; matrixCount + 1 < kMaxMatrices && fread(m, offsetof(struct Importance, sums), 1, file) == 1; ++m) {
    m->sums = malloc((size_t)m->columns * sizeof(float));
    if (!m->sums || fread(m->sums, sizeof(float), (size_t)m->columns, file) != (size_t)m->columns)
      return fail("the importance matrix is cut short");
    ++matrixCount;
  }
  fclose(file);
  return 0;
}

static int quantize(const char* source, const char* target, int type, int threads, const char* importance) {
  struct llama_model_quantize_params params = llama_model_quantize_default_params();
  params.ftype = (enum llama_ftype)type;
  params.nthread = threads;
  params.allow_requantize = true;
  static struct llama_model_imatrix_data entries[kMaxMatrices];
  if (importance) {
    if (readImportance(importance) != 0) return 1;
    for (int i = 0; i < matrixCount; ++i)
      entries[i] =
          (struct llama_model_imatrix_data){matrices[i].name, matrices[i].sums, (size_t)matrices[i].columns};
    params.imatrix = entries;
  }
  const double start = seconds();
  if (llama_model_quantize(source, target, &params) != 0) {
    remove(target);
    return 1;
  }
  printf("{\"seconds\":%.3f}\n", seconds() - start);
  return 0;
}

// Adds the squares of the input's columns, for matrices of the blocks.
static bool addSquares(struct ggml_tensor* product, bool ask, void* unused) {
  (void)unused;
  const struct ggml_tensor *weight = product->src[0], *input = product->src[1];
  const bool wanted = product->op == GGML_OP_MUL_MAT && strncmp(weight->name, "blk.", 4) == 0 &&
                      strstr(weight->name, ".weight") && input->type == GGML_TYPE_F32;
  if (ask || !wanted) return ask ? wanted : true;
  int at = 0;
  while (at < matrixCount && strcmp(matrices[at].name, weight->name) != 0) ++at;
  if (at + 1 >= kMaxMatrices) return false;
  struct Importance* m = &matrices[at];
  if (at == matrixCount) {
    ++matrixCount;
    snprintf(m->name, sizeof m->name, "%s", weight->name);
    m->columns = (int32_t)input->ne[0];
    m->sums = calloc((size_t)m->columns, sizeof(float));
  }
  for (int64_t t = 0; t < input->ne[1]; ++t) {
    const float* row = (const float*)((const char*)input->data + t * input->nb[1]);
    for (int32_t c = 0; c < m->columns; ++c) m->sums[c] += row[c] * row[c];
  }
  m->tokens += input->ne[1];
  return true;
}

static int writeImportance(const char* path) {
  FILE* file = fopen(path, "wb");
  if (!file) return fail("cannot write the importance matrix");
  for (int i = 0; i < matrixCount; ++i) {
    struct Importance* m = &matrices[i];
    for (int32_t c = 0; c < m->columns; ++c) m->sums[c] /= (float)m->tokens;
    fwrite(m, offsetof(struct Importance, sums), 1, file);
    fwrite(m->sums, sizeof(float), (size_t)m->columns, file);
  }
  return fclose(file) == 0 ? 0 : fail("cannot write the importance matrix");
}

// −ln softmax(logits)[token], the sum in float64.
static double tokenNll(const float* logits, int vocabulary, int token) {
  float largest = logits[0];
  for (int i = 1; i < vocabulary; ++i) largest = fmaxf(largest, logits[i]);
  double sum = 0;
  for (int i = 0; i < vocabulary; ++i) sum += exp((double)(logits[i] - largest));
  return log(sum) + largest - logits[token];
}

// Each window's tokens but its first, given those before them in the window; or the squares of the inputs
// only.
static int evaluate(const char* path, const char* idsPath, int window, int threads, const char* importance) {
  FILE* file = fopen(idsPath, "rb");
  llama_token* ids = malloc((size_t)window * sizeof *ids);
  struct llama_model* model = llama_model_load_from_file(path, llama_model_default_params());
  if (!file || !ids || !model) return fail("cannot read the tokens or the model");
  struct llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = (uint32_t)window;
  params.n_threads = params.n_threads_batch = threads;
  if (importance) params.cb_eval = addSquares;
  struct llama_context* context = llama_init_from_model(model, params);
  if (!context) return fail("cannot make a context");
  const int vocabulary = llama_vocab_n_tokens(llama_model_get_vocab(model));
  struct llama_batch batch = llama_batch_init(window, 0, 1);
  batch.n_tokens = window;
  const double start = seconds();
  double nll = 0;
  int windows = 0;
  for (; fread(ids, sizeof *ids, (size_t)window, file) == (size_t)window; ++windows) {
    llama_memory_clear(llama_get_memory(context), true);
    for (int i = 0; i < window; ++i) {
      batch.token[i] = ids[i];
      batch.pos[i] = i;
      batch.n_seq_id[i] = 1;
      batch.seq_id[i][0] = 0;
      batch.logits[i] = importance ? i + 1 == window : i + 1 < window;
    }
    if (llama_decode(context, batch) != 0) return fail("cannot evaluate a window");
    for (int i = 0; !importance && i + 1 < window; ++i)
      nll += tokenNll(llama_get_logits_ith(context, i), vocabulary, ids[i + 1]);
  }
  if (windows == 0) return fail("fewer tokens than one window");
  if (importance && writeImportance(importance) != 0) return 1;
  printf("{\"windows\":%d,\"seconds\":%.3f", windows, seconds() - start);
  if (!importance) printf(",\"perplexity\":%.6f", exp(nll / windows / (window - 1)));
  puts("}");
  llama_batch_free(batch);
  llama_free(context);
  llama_model_free(model);
  fclose(file);
  free(ids);
  return 0;
}

int main(int count, char** arguments) {
  llama_log_set(printErrors, NULL);
  const char* command = count > 1 ? arguments[1] : "";
  if (count == 3 && strcmp(command, "tensors") == 0) return listTensors(arguments[2]);
  if (count != 6 && count != 7) return fail("wrong arguments");
  // The processor's backend is one of several libraries beside libllama, chosen at run time.
  ggml_backend_load_all_from_path(getenv("SLIM_LLAMA_BACKENDS"));
  llama_backend_init();
  const char* importance = count == 7 ? arguments[6] : NULL;
  const int number = atoi(arguments[4]), threads = atoi(arguments[5]);
  const int status = strcmp(command, "quantize") == 0
                         ? quantize(arguments[2], arguments[3], number, threads, importance)
                         : evaluate(arguments[2], arguments[3], number, threads, importance);
  llama_backend_free();
  return status;
}
