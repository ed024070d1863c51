// Loops of many shapes, one after the other, nested and from several callers; run by thread_pool.test.ts,
// also under the thread sanitizer. The argument is how many loops each pool runs.
#include "core/thread_pool.h"

#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "core/split_mix.h"

namespace {

using namespace slim;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("expected %s\n", what);
  std::exit(1);
}

void checkLoop(ThreadPool& pool, size_t count, SplitMix64& random) {
  const bool begins = random.uniform() < 0.5;
  const bool nests = count > 1 && random.uniform() < 0.1;
  const bool slow = random.uniform() < 0.02;  // for so long that the others fall asleep
  // The index that throws, if any.
  const size_t bad = random.uniform() < 0.1 ? size_t(random.uniform() * double(count)) : count;
  std::vector<int> calls(count);  // each of a thread that no other writes, whole when the loop is over
  int prepared = 0;
  const auto ahead = [&](size_t index) { expect(index < count, "an index of the loop"); };
  const auto prepare = [&] {
    if (slow) std::this_thread::sleep_for(std::chrono::microseconds(200));
    ++prepared;
  };
  const ThreadPool::Beginning beginning{ahead, prepare};
  bool thrown = false;
  try {
    pool.parallelFor(
        count,
        [&](size_t i, int thread) {
          expect(thread >= 0 && thread < pool.threads(), "a thread's number");
          expect(!begins || prepared == 1, "the beginning to be over");
          if (i == bad) throw std::runtime_error("bad");
          ++calls[i];
          if (slow && i % 8 == 0) std::this_thread::sleep_for(std::chrono::microseconds(200));
          if (nests)
            pool.parallelFor(3, [&](size_t, int inner) { expect(inner == thread, "the same thread"); });
        },
        begins ? beginning : ThreadPool::Beginning{});
  } catch (const std::runtime_error&) {
    thrown = true;
  }
  expect(thrown == (bad < count), "what a body throws, and nothing else");
  for (size_t i = 0; i < count; ++i)
    expect(thrown ? calls[i] <= int(i != bad) : calls[i] == 1, "one call of every index");
}

void checkPool(int threads, int loops) {
  ThreadPool pool(threads);
  SplitMix64 random(static_cast<uint64_t>(threads));
  for (int i = 0; i < loops; ++i) {
    checkLoop(pool, size_t(random.uniform() * 40), random);
    // Long enough for all to fall asleep.
    if (i % 500 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  checkLoop(pool, 3 << 20, random);  // more than the numbers of one loop
}

void checkCallers(int loops) {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  std::vector<std::thread> callers;
  for (int caller = 0; caller < 4; ++caller)
    callers.emplace_back([&] {
      for (int i = 0; i < loops; ++i) pool.parallelFor(7, [&](size_t, int) { ++calls; });
    });
  for (auto& caller : callers) caller.join();
  expect(calls == 4 * loops * 7, "all calls of all callers");
}

}  // namespace

int main(int, char** arguments) {
  const int loops = std::stoi(arguments[1]);
  for (const int threads : {1, 2, 3, 5}) checkPool(threads, loops);
  checkCallers(loops);
  std::printf("%d loops\n", loops);
}
