// A pool of threads for data-parallel loops. Results never depend on the number of threads: work is cut by
// output, each output is computed whole by one thread, and no reduction crosses threads.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace slim {

class ThreadPool {
 public:
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int threads() const { return int(workers_.size()) + 1; }

  /// Calls body(i, thread) for every i in [0, count), i handed out one by one to the caller (thread 0) and the
  /// workers (thread 1 …); returns when all are done. Concurrent callers take turns. Not to be nested.
  void parallelFor(size_t count, const std::function<void(size_t index, int thread)>& body);

  /// The process's pool of that many threads, made at first use and shared by all callers who hold it.
  static std::shared_ptr<ThreadPool> shared(int threads);

 private:
  void run(int thread);

  std::vector<std::thread> workers_;
  std::mutex turn_;   // one parallelFor at a time
  std::mutex mutex_;  // guards what follows
  std::condition_variable wake_, done_;
  const std::function<void(size_t, int)>* body_ = nullptr;
  size_t count_ = 0;
  uint64_t generation_ = 0;
  int active_ = 0;
  bool stop_ = false;
  std::atomic<size_t> next_{0};
};

}  // namespace slim
