// A pool of threads for data-parallel loops. Results never depend on the number of threads: work is cut by
// output, each output is computed whole by one thread, and no reduction crosses threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/function_ref.h"
#include "core/status.h"

namespace slim {

class ThreadPool {
 public:
  /// Throws std::system_error when a thread cannot be started; those that were are stopped.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  using Body = FunctionRef<void(size_t index, int thread)>;
  /// What a loop begins with. The caller prepares what the bodies read while the workers are on their way;
  /// each of them, and the caller before it prepares, asks for the memory of the index that it begins with
  /// (`ahead`). No body runs before that is done. Neither may throw or use the pool.
  struct Beginning {
    FunctionRef<void(size_t index)> ahead;
    FunctionRef<void()> prepare;
  };

  int threads() const { return int(workers_.size()) + 1; }

  /// Calls body(i, thread) for every i in [0, count) on the caller (thread 0) and the workers (thread 1 …);
  /// returns when all are done. Every thread goes through a share of its own from its begin, and then takes
  /// from the shares of others: indices that follow each other mostly run on one thread, so what it has
  /// prefetched is what it reads next. Concurrent callers take turns. Called from inside a
  /// body of a loop of several threads, it runs on the calling thread alone and keeps that thread's number.
  /// An exception thrown by a body (std::bad_alloc) ends the loop early and is thrown again here.
  void parallelFor(size_t count, Body body, const Beginning& beginning = {});

  struct Indices {
    size_t begin, end;
  };
  /// The share of a thread in a loop of more than one index.
  Indices shareOf(size_t thread, size_t count) const {
    return {thread * count / shares_.size(), (thread + 1) * count / shares_.size()};
  }

  /// The process's pool of that many threads, made at first use and shared by all callers who hold it.
  static Status shared(int threads, std::shared_ptr<ThreadPool>& out);

 private:
  // The number of a loop (44 bits), and a number that belongs to it (20 bits).
  using Tagged = std::atomic<uint64_t>;
  // Of a thread.
  struct alignas(64) Share {
    Tagged next{0};  // index that nobody has taken
  };
  struct alignas(64) Report {
    Tagged done{0};  // how many indices the thread is through with
  };

  void run(int thread);
  void stop();
  void loop(size_t count, Body body, const Beginning& beginning);
  void prepare(uint64_t loop) noexcept;
  void callSleepers();
  bool allReported(uint64_t loop, size_t count) const;
  void work(int thread, uint64_t loop, size_t count);
  void begin(uint64_t loop, size_t index) noexcept;
  bool take(size_t thread, uint64_t loop, Indices own, size_t& index);
  size_t takeRest(uint64_t loop, size_t count);

  std::vector<Share> shares_;
  std::vector<Report> reports_;
  std::vector<std::thread> workers_;

  // The loop that is open: its number and count, and what a thread may read that has taken one of its
  // indices. It is over when all indices are reported: a worker that comes later finds none left, and costs
  // the caller nothing. On one cache line, since each that comes from another core costs some 60 ns, or 280
  // where the cores are on different chiplets.
  alignas(64) Tagged open_{0};
  Body body_;
  Beginning beginning_;
  alignas(64) std::atomic<uint64_t> prepared_{0};  // the loop whose beginning is done

  // Who found nothing to do for a while sleeps: it raises its flag before it looks for the last time, and who
  // has something for it looks at the flag after making that known, so no wake-up is
  // missed.
  alignas(64) std::atomic<int> sleepers_{0};
  std::atomic<bool> callerSleeps_{false};
  std::atomic<bool> stop_{false};
  std::mutex sleep_;
  std::condition_variable wake_, done_;
  std::exception_ptr failure_;  // guarded by sleep_
  std::mutex turn_;             // one parallelFor at a time
};

}  // namespace slim
