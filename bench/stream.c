// The bandwidth at which threads read memory that no cache holds: the limit of a product with cold weights. In
// pieces, that of products of their size: threads begin every piece together and wait for each other at its end.
#include <node_api.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

enum { kMaxThreads = 256, kPrefetchAhead = 64 };  // vectors: one page of 4 KiB

typedef uint64_t Vector __attribute__((vector_size(64)));

struct Part {
  const Vector* from;
  size_t count;
  uint64_t sum;
};

// What a thread reads: its share of every piece.
struct Reader {
  const Vector* buffer;
  size_t pieces, pieceCount;  // of so many vectors
  int thread, threads;
  uint64_t sum;
};

// The piece that is open, and the last that each thread is through with: each on a cache line of its own.
static struct { _Alignas(64) _Atomic size_t piece; } open, done[kMaxThreads];

// Sums that do not wait for each other; compiled for wider registers too, chosen when the module is loaded.
#if defined(__x86_64__)
__attribute__((target_clones("default", "avx2", "avx512f")))
#endif
static void
readAll(struct Part* part) {
  Vector a = {0}, b = {0}, c = {0}, d = {0};
  for (size_t i = 0; i + 4 <= part->count; i += 4) {
    a += part->from[i];
    b += part->from[i + 1];
    c += part->from[i + 2];
    d += part->from[i + 3];
    __builtin_prefetch(part->from + i + kPrefetchAhead, 0, 0);
  }
  const Vector sum = a + b + c + d;
  for (int lane = 0; lane < 8; ++lane) part->sum += sum[lane];
}

static void awaitPiece(_Atomic size_t* at, size_t piece) {
  // The other may have to run on this core.
  for (int spins = 0; atomic_load_explicit(at, memory_order_acquire) < piece; ++spins)
    if (spins > 100000) sched_yield();
}

static void* readPieces(void* argument) {
  struct Reader* reader = argument;
  const size_t threads = (size_t)reader->threads, thread = (size_t)reader->thread;
  for (size_t piece = 1; piece <= reader->pieces; ++piece) {
    if (thread == 0)
      atomic_store_explicit(&open.piece, piece, memory_order_release);
    else
      awaitPiece(&open.piece, piece);
    const size_t begin = thread * reader->pieceCount / threads, end = (thread + 1) * reader->pieceCount / threads;
    struct Part part = {reader->buffer + (piece - 1) * reader->pieceCount + begin, end - begin, 0};
    readAll(&part);
    reader->sum += part.sum;
    atomic_store_explicit(&done[thread].piece, piece, memory_order_release);
    for (size_t t = 1; thread == 0 && t < threads; ++t) awaitPiece(&done[t].piece, piece);
  }
  return NULL;
}

// A cache line goes to a second thread and back.
static void* answerTurns(void* turns) {
  for (size_t turn = 1; turn <= *(const size_t*)turns; ++turn) {
    awaitPiece(&open.piece, turn);
    atomic_store_explicit(&done[1].piece, turn, memory_order_release);
  }
  return NULL;
}

static double seconds(void) {
  struct timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

// read(bytes, threads, pieceBytes = bytes): bytes a second, over one pass through a buffer of that size; made at
// the first call, in pages of 2 MiB where the system has them.
static napi_value readMemory(napi_env env, napi_callback_info info) {
  size_t count = 3;
  napi_value arguments[3], result;
  napi_get_cb_info(env, info, &count, arguments, NULL, NULL);
  int64_t bytes = 0;
  int32_t threads = 0;
  napi_get_value_int64(env, arguments[0], &bytes);
  napi_get_value_int32(env, arguments[1], &threads);
  int64_t pieceBytes = bytes;
  if (count > 2) napi_get_value_int64(env, arguments[2], &pieceBytes);
  static Vector* buffer = NULL;
  static size_t size = 0;
  if (threads < 1 || threads > kMaxThreads || (size && size != (size_t)bytes) ||
      pieceBytes < (int64_t)sizeof(Vector) || pieceBytes > bytes) {
    napi_throw_error(env, NULL, "read: expected 1 to 256 threads, the same bytes at every call, and pieces of them");
    return NULL;
  }
  if (!buffer) {
    size = (size_t)bytes;
    if (posix_memalign((void**)&buffer, (size_t)2 << 20, size) != 0) {
      napi_throw_error(env, NULL, "read: not enough memory");
      return NULL;
    }
    madvise(buffer, size, MADV_HUGEPAGE);
    for (size_t i = 0; i < size / sizeof(Vector); ++i) buffer[i] = (Vector){0} + i;
  }
  struct Reader readers[kMaxThreads];
  pthread_t workers[kMaxThreads];
  const size_t pieceCount = (size_t)pieceBytes / sizeof(Vector), pieces = size / sizeof(Vector) / pieceCount;
  atomic_store(&open.piece, 0);
  for (int t = 0; t < threads; ++t) {
    atomic_store(&done[t].piece, 0);
    readers[t] = (struct Reader){buffer, pieces, pieceCount, t, threads, 0};
  }
  const double start = seconds();
  for (int t = 1; t < threads; ++t) pthread_create(&workers[t], NULL, readPieces, &readers[t]);
  readPieces(&readers[0]);
  for (int t = 1; t < threads; ++t) pthread_join(workers[t], NULL);
  const double bytesRead = (double)(pieces * pieceCount * sizeof(Vector));
  napi_create_double(env, bytesRead / (seconds() - start), &result);
  return result;
}

// hop(): seconds that a cache line takes from one core to another.
static napi_value hop(napi_env env, napi_callback_info info) {
  (void)info;
  size_t turns = 100000;
  atomic_store(&open.piece, 0);
  atomic_store(&done[1].piece, 0);
  pthread_t worker;
  pthread_create(&worker, NULL, answerTurns, &turns);
  const double start = seconds();
  for (size_t turn = 1; turn <= turns; ++turn) {
    atomic_store_explicit(&open.piece, turn, memory_order_release);
    awaitPiece(&done[1].piece, turn);
  }
  const double spent = seconds() - start;
  pthread_join(worker, NULL);
  napi_value result;
  napi_create_double(env, spent / (2 * (double)turns), &result);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "hop", NAPI_AUTO_LENGTH, hop, NULL, &function);
  napi_set_named_property(env, exports, "hop", function);
  napi_create_function(env, "read", NAPI_AUTO_LENGTH, readMemory, NULL, &function);
  napi_set_named_property(env, exports, "read", function);
  return exports;
}
