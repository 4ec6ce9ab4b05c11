// Runs a CUDA kernel on the CPU: the words of the language that prl/csrc/gae_cuda.cuh uses, and a scheduler.
//
// Every thread of a block is a fiber; fibers take turns in a random order and stop at barriers and shuffles, so that a
// missing __syncthreads() or a race shows as a result that changes with the seed. Blocks run one after the other in a
// random order of blockIdx: a block that waits for one that has not started is an error here, a deadlock on a GPU.
//
// Memory between blocks is as weak as a GPU's may be: what a thread stores for others reaches them at its next fence, and
// too late if its flag is up by then, since flags are seen at once; what it loads between a flag and its next fence is NaN.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#define PRL_ON_HOST 1
#define __device__
#define __global__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx;

namespace host {

constexpr unsigned kWarp = 32;
constexpr size_t kStack = 64 << 10;

struct Barrier {
  unsigned arrived = 0, generation = 0;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done;
};

struct Machine {
  std::vector<Fiber> fibers;
  std::vector<std::vector<std::function<void()>>> stores;  // of each thread, since its last fence
  std::vector<bool> needs_fence;  // of each thread: it knows of a flag, and of nothing that stands behind it
  std::vector<Barrier> warps;
  std::vector<uint64_t> exchange;  // what a lane shows to its warp
  Barrier block;
  ucontext_t scheduler;
  std::function<void()> kernel;
  unsigned progress = 0;
  std::string error;
};
inline Machine machine;

inline void switch_away() {
  const unsigned me = threadIdx.x;
  swapcontext(&machine.fibers[me].context, &machine.scheduler);
  threadIdx.x = me;
}

inline void fail(const char* why) {
  machine.error = why;
  while (true) switch_away();
}

inline void wait(Barrier& barrier, unsigned members) {
  const unsigned generation = barrier.generation;
  if (++barrier.arrived == members) {
    barrier.arrived = 0;
    ++barrier.generation;
    ++machine.progress;
    return;
  }
  while (barrier.generation == generation) switch_away();
}

template <class T>
T exchange(T value, unsigned source, bool in_range) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  const unsigned me = threadIdx.x, first = me / kWarp * kWarp;
  memcpy(&machine.exchange[me], &value, sizeof(T));
  wait(machine.warps[me / kWarp], kWarp);
  if (in_range) memcpy(&value, &machine.exchange[first + source], sizeof(T));
  wait(machine.warps[me / kWarp], kWarp);
  return value;
}

inline void enter_fiber() {
  machine.kernel();
  machine.fibers[threadIdx.x].done = true;
  ++machine.progress;
  switch_away();
}

// One block; false when it cannot go on.
inline bool run_block(unsigned threads, std::mt19937_64& random) {
  machine.fibers.resize(threads);
  machine.warps.assign(threads / kWarp, Barrier{});
  machine.exchange.assign(threads, 0);
  machine.block = Barrier{};
  machine.stores.assign(threads, {});  // what no fence followed is never seen by another block
  machine.needs_fence.assign(threads, false);
  std::vector<unsigned> turn(threads);
  for (unsigned t = 0; t < threads; ++t) {
    Fiber& fiber = machine.fibers[t];
    if (!fiber.stack) fiber.stack.reset(new char[kStack]);
    fiber.done = false;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = &machine.scheduler;
    makecontext(&fiber.context, enter_fiber, 0);
    turn[t] = t;
  }
  for (size_t finished = 0; finished < threads;) {
    const unsigned before = machine.progress;
    std::shuffle(turn.begin(), turn.end(), random);
    for (unsigned t : turn) {
      if (machine.fibers[t].done) continue;
      threadIdx.x = t;
      swapcontext(&machine.scheduler, &machine.fibers[t].context);
      finished += machine.fibers[t].done;
      if (!machine.error.empty()) return false;
    }
    if (machine.progress == before) {
      machine.error = "threads wait at different barriers";
      return false;
    }
  }
  return true;
}

// A launch; the reason when it cannot end, else an empty string.
inline std::string launch(unsigned blocks, unsigned threads, uint64_t seed, std::function<void()> kernel) {
  std::mt19937_64 random(seed);
  machine.kernel = std::move(kernel);
  machine.error.clear();
  std::vector<unsigned> order(blocks);
  for (unsigned b = 0; b < blocks; ++b) order[b] = b;
  std::shuffle(order.begin(), order.end(), random);
  for (unsigned b : order) {
    blockIdx.x = b;
    if (!run_block(threads, random)) break;
  }
  return machine.error;
}

}  // namespace host

inline void __syncthreads() {
  host::wait(host::machine.block, static_cast<unsigned>(host::machine.fibers.size()));
}
inline void __threadfence() {
  for (const auto& store : host::machine.stores[threadIdx.x]) store();
  host::machine.stores[threadIdx.x].clear();
  host::machine.needs_fence[threadIdx.x] = false;
}

template <class T>
T __shfl_down_sync(unsigned, T value, unsigned delta) {
  const unsigned lane = threadIdx.x % host::kWarp;
  return host::exchange(value, lane + delta, lane + delta < host::kWarp);
}
template <class T>
T __shfl_sync(unsigned, T value, unsigned lane) {
  return host::exchange(value, lane, true);
}
inline unsigned atomicAdd(unsigned* place, unsigned value) {
  host::machine.stores[threadIdx.x].clear();
  const unsigned old = *place;
  *place += value;
  std::fill(host::machine.needs_fence.begin(), host::machine.needs_fence.end(), true);  // the block will know of it
  return old;
}
namespace prl::cuda {
inline void wait_a_little() {
  host::fail("a block waits for a block that has not started");
}
template <class T>
void store_for_blocks(T* place, T value) {
  host::machine.stores[threadIdx.x].push_back([=] { *place = value; });
}
template <class T>
T load_of_block(const T* place) {
  return host::machine.needs_fence[threadIdx.x] ? std::numeric_limits<T>::quiet_NaN() : *place;
}
inline void raise_flag(unsigned* flag) {
  host::machine.stores[threadIdx.x].clear();
  *flag = 1;
}
inline bool is_raised(const unsigned* flag) {
  host::machine.needs_fence[threadIdx.x] = true;
  return *flag != 0;
}
}  // namespace prl::cuda
