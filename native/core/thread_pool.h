// A pool of threads for data-parallel loops. Results never depend on the number of threads: work is cut by
// output, each output is computed whole by one thread, and no reduction crosses threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/status.h"

namespace slim {

class ThreadPool {
 public:
  /// Throws std::system_error when a thread cannot be started; those that were are stopped.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  /// Calls body(i, thread) for every i in [0, count) on the caller (thread 0) and the workers (thread 1 …);
  /// returns when all are done. Every thread goes through a share of its own from its begin, and then takes
  /// from the shares of others: indices that follow each other mostly run on one thread, so what it has
  /// prefetched is what it reads next. Concurrent callers take turns. Called from inside a
  /// body of the same pool, it runs on the calling thread alone and keeps that thread's number. An exception
  /// thrown by a body (std::bad_alloc) ends the loop early and is thrown again here.
  void parallelFor(size_t count, const std::function<void(size_t index, int thread)>& body);

  /// The process's pool of that many threads, made at first use and shared by all callers who hold it.
  static Status shared(int threads, std::shared_ptr<ThreadPool>& out);

 private:
  using Body = std::function<void(size_t, int)>;
  struct alignas(64) Share {
    std::atomic<size_t> next{0};
    size_t end = 0;
  };

  void run(int thread);
  void stop();
  void work(const Body& body, int thread);
  bool enter(uint64_t& seen);
  void leave();

  std::vector<std::thread> workers_;
  std::mutex turn_;  // one parallelFor at a time

  // The loop that is open. A worker enters while it is open, and only then may it read body_ and shares_; the
  // caller closes it and waits until no worker is inside. So a worker that wakes late costs the caller
  // nothing.
  //   bits 32 … 63: number of the loop · bit 31: open · bits 0 … 30: workers inside
  std::atomic<uint64_t> state_{0};
  std::vector<Share> shares_;  // of each thread
  const Body* body_ = nullptr;
  std::exception_ptr failure_;  // guarded by sleep_

  // Who found nothing to do for a while sleeps. Each of these flags is raised before its owner looks at
  // state_ for the last time, and read after state_ was changed (all sequentially consistent), so no wake-up
  // is missed.
  std::mutex sleep_;
  std::condition_variable wake_, done_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> callerSleeps_{false};
  std::atomic<bool> stop_{false};
};

}  // namespace slim
