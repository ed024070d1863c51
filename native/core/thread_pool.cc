#include "core/thread_pool.h"

#include <chrono>
#include <map>
#include <system_error>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace slim {
namespace {

constexpr uint64_t kOpen = uint64_t(1) << 31, kInside = kOpen - 1, kLoop = uint64_t(1) << 32;

// Loops come in quick succession (pack, multiply, pack …); falling asleep and waking costs some 50 µs of
// latency.
constexpr std::chrono::microseconds kSpin{40};

thread_local const ThreadPool* currentPool = nullptr;
thread_local int currentThread = 0;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#else
  std::this_thread::yield();
#endif
}

template <typename Condition>
bool spinUntil(const Condition& condition) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 16; ++i) {
      if (condition()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < deadline);
  return condition();
}

}  // namespace

ThreadPool::ThreadPool(int threads) : shares_(size_t(threads)) {
  try {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { run(i); });
  } catch (...) {
    stop();
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  stop_.store(true);
  { std::lock_guard lock(sleep_); }
  wake_.notify_all();
  for (auto& worker : workers_) worker.join();
}

void ThreadPool::parallelFor(size_t count, const Body& body) {
  if (currentPool == this || workers_.empty() || count <= 1) {
    const int thread = currentPool == this ? currentThread : 0;
    for (size_t i = 0; i < count; ++i) body(i, thread);
    return;
  }
  std::lock_guard turn(turn_);
  body_ = &body;
  for (size_t i = 0, next = 0; i < shares_.size(); ++i, next = shares_[i - 1].end) {
    shares_[i].next.store(next, std::memory_order_relaxed);
    shares_[i].end = (i + 1) * count / shares_.size();
  }
  const uint64_t loop = (state_.load(std::memory_order_relaxed) / kLoop + 1) * kLoop;
  state_.store(loop | kOpen);
  if (sleepers_.load() > 0) {
    { std::lock_guard lock(sleep_); }
    wake_.notify_all();
  }

  work(body, 0);

  state_.fetch_and(~kOpen);
  const auto finished = [this] { return (state_.load() & kInside) == 0; };
  if (!spinUntil(finished)) {
    std::unique_lock lock(sleep_);
    callerSleeps_.store(true);
    done_.wait(lock, finished);
    callerSleeps_.store(false);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::work(const Body& body, int thread) {
  const ThreadPool* outerPool = std::exchange(currentPool, this);
  const int outerThread = std::exchange(currentThread, thread);
  try {
    for (size_t other = 0; other < shares_.size(); ++other) {
      Share& share = shares_[(size_t(thread) + other) % shares_.size()];
      for (size_t i; (i = share.next.fetch_add(1, std::memory_order_relaxed)) < share.end;) body(i, thread);
    }
  } catch (...) {
    for (Share& share : shares_) share.next.store(share.end, std::memory_order_relaxed);
    std::lock_guard lock(sleep_);
    if (!failure_) failure_ = std::current_exception();
  }
  currentPool = outerPool;
  currentThread = outerThread;
}

// True when there is an open loop that this worker has not seen, and the worker is now inside it.
bool ThreadPool::enter(uint64_t& seen) {
  uint64_t state = state_.load();
  while (state / kLoop != seen) {
    if (!(state & kOpen)) return false;
    if (state_.compare_exchange_weak(state, state + 1)) {
      seen = state / kLoop;
      return true;
    }
  }
  return false;
}

void ThreadPool::leave() {
  const uint64_t state = state_.fetch_sub(1) - 1;
  if ((state & (kOpen | kInside)) == 0 && callerSleeps_.load()) {
    { std::lock_guard lock(sleep_); }
    done_.notify_one();
  }
}

void ThreadPool::run(int thread) {
  uint64_t seen = 0;
  for (;;) {
    bool inside = false;
    const auto ready = [&] { return (inside = enter(seen)) || stop_.load(); };
    if (!spinUntil(ready)) {
      std::unique_lock lock(sleep_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, ready);
      sleepers_.fetch_sub(1);
    }
    if (!inside) return;
    work(*body_, thread);
    leave();
  }
}

Status ThreadPool::shared(int threads, std::shared_ptr<ThreadPool>& out) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<ThreadPool>> pools;
  std::lock_guard lock(mutex);
  auto pool = pools[threads].lock();
  try {
    if (!pool) pools[threads] = pool = std::make_shared<ThreadPool>(threads);
  } catch (const std::system_error& error) {
    Status status = Status::error("SLIM_OUT_OF_MEMORY", "Cannot start " + std::to_string(threads) +
                                                            " threads: " + error.code().message());
    status.parameter = "threads";
    status.remedy = "Use fewer threads, or raise the limits on processes and memory";
    return status;
  }
  out = std::move(pool);
  return Status::success();
}

}  // namespace slim
