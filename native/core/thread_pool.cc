#include "core/thread_pool.h"

#include <algorithm>
#include <chrono>
#include <map>
#include <system_error>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace slim {
namespace {

constexpr int kNumberBits = 20;
constexpr size_t kMostIndices = (size_t(1) << kNumberBits) - 1;

uint64_t tagged(uint64_t loop, size_t number) { return loop << kNumberBits | number; }
uint64_t loopOf(uint64_t tagged) { return tagged >> kNumberBits; }
size_t numberOf(uint64_t tagged) { return tagged & kMostIndices; }

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

ThreadPool::ThreadPool(int threads) : shares_(size_t(threads)), reports_(size_t(threads)) {
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

void ThreadPool::parallelFor(size_t count, Body body, const Beginning& beginning) {
  if (currentPool == this || workers_.empty() || count <= 1) {
    const int thread = currentPool == this ? currentThread : 0;
    if (beginning.prepare) beginning.prepare();
    for (size_t i = 0; i < count; ++i) body(i, thread);
    return;
  }
  std::lock_guard turn(turn_);
  if (count <= kMostIndices) return loop(count, body, beginning);
  for (size_t first = 0; first < count; first += kMostIndices)
    loop(
        std::min(count - first, kMostIndices), [&](size_t i, int thread) { body(first + i, thread); },
        first == 0 ? beginning : Beginning{});
}

void ThreadPool::loop(size_t count, Body body, const Beginning& beginning) {
  const uint64_t loop = loopOf(open_.load(std::memory_order_relaxed)) + 1;
  body_ = body;  // cppcheck-suppress danglingLifetime; read while the loop is open alone
  beginning_ = beginning;
  open_.store(tagged(loop, count), std::memory_order_release);
  if (beginning.prepare) prepare(loop);
  callSleepers();
  work(0, loop, count);
  const auto finished = [&] { return allReported(loop, count); };
  if (!spinUntil(finished)) {
    std::unique_lock lock(sleep_);
    callerSleeps_.store(true);
    done_.wait(lock, finished);
    callerSleeps_.store(false);
  }
  if (failure_) std::rethrow_exception(std::exchange(failure_, nullptr));
}

void ThreadPool::prepare(uint64_t loop) noexcept {
  beginning_.ahead(0);
  beginning_.prepare();
  prepared_.store(loop, std::memory_order_release);
}

// Both sides change the counter of sleepers: the change of a worker that falls asleep is seen here, or comes
// later, and then the worker sees that the loop is open. By now the stores before this have mostly left for
// the other cores: it waits little for them.
void ThreadPool::callSleepers() {
  if (sleepers_.fetch_add(0) == 0) return;
  { std::lock_guard lock(sleep_); }
  wake_.notify_all();
}

bool ThreadPool::allReported(uint64_t loop, size_t count) const {
  size_t done = 0;
  for (const Report& report : reports_)
    if (const uint64_t word = report.done.load(); loopOf(word) == loop) done += numberOf(word);
  return done == count;
}

// The next index of a thread's share. Who comes first opens the share, so that the caller need not write one
// for every thread. A share that is in a later loop tells a worker that its own is over.
bool ThreadPool::take(size_t thread, uint64_t loop, Indices own, size_t& index) {
  Tagged& next = shares_[thread].next;
  uint64_t word = next.load(std::memory_order_relaxed);
  do {
    index = loopOf(word) < loop ? own.begin : numberOf(word);
    if (loopOf(word) > loop || index == own.end) return false;
  } while (!next.compare_exchange_weak(word, tagged(loop, index + 1)));
  return true;
}

size_t ThreadPool::takeRest(uint64_t loop, size_t count) {
  size_t taken = 0;
  for (size_t thread = 0, index; thread < shares_.size(); ++thread)
    while (take(thread, loop, shareOf(thread, count), index)) ++taken;
  return taken;
}

void ThreadPool::begin(uint64_t loop, size_t index) noexcept {
  const auto prepared = [&] { return prepared_.load(std::memory_order_acquire) == loop; };
  if (!beginning_.prepare || prepared()) return;
  beginning_.ahead(index);
  while (!spinUntil(prepared)) std::this_thread::yield();
}

void ThreadPool::work(int thread, uint64_t loop, size_t count) {
  const ThreadPool* outerPool = std::exchange(currentPool, this);
  const int outerThread = std::exchange(currentThread, thread);
  size_t done = 0;
  for (size_t k = 0; k < shares_.size(); ++k) {
    const size_t share = (size_t(thread) + k) % shares_.size(), before = done;
    const Indices own = shareOf(share, count);
    for (size_t i; take(share, loop, own, i); ++done) {
      try {
        begin(loop, i);
        body_(i, thread);
      } catch (...) {
        done += takeRest(loop, count);
        std::lock_guard lock(sleep_);
        if (!failure_) failure_ = std::current_exception();
      }
    }
    if (done == before) continue;
    reports_[size_t(thread)].done.store(tagged(loop, done));
    if (callerSleeps_.load() && allReported(loop, count)) {
      { std::lock_guard lock(sleep_); }
      done_.notify_one();
    }
  }
  currentPool = outerPool;
  currentThread = outerThread;
}

void ThreadPool::run(int thread) {
  for (uint64_t last = 0;;) {
    uint64_t open = 0;
    const auto ready = [&] { return loopOf(open = open_.load()) != last || stop_.load(); };
    if (!spinUntil(ready)) {
      std::unique_lock lock(sleep_);
      sleepers_.fetch_add(1);
      wake_.wait(lock, ready);
      sleepers_.fetch_sub(1);
    }
    if (loopOf(open) == last) return;
    last = loopOf(open);
    work(thread, last, numberOf(open));
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
