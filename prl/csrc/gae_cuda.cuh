// GAE on the GPU: one launch, one pass over memory, a parallel scan over time.
//
// With c_t = gamma V_t + gamma lambda A_t of a token that counts, and c beyond a row's end = its score, the recurrence
//   A_t = r_t - V_t + c_next,  return_t = r_t + c_next (with the critic's lambda),
//   c_t = gamma V_t + d (r_t - V_t) + d c_next,  d = gamma lambda;  a masked token hands c_next on unchanged
// is a chain of maps c -> b + d c, and composing such maps is associative. The rows lie one after the other, as one
// sequence of tokens; the last token of a row ignores what follows it. So many short rows, few long ones and packed
// ones are one problem: threads compose the maps of their own tokens, warps and blocks compose those of their threads,
// and a block that ends inside a row composes the maps of the blocks to its right.
//
// No torch header and no call of the CUDA runtime: nvcc compiles this for a GPU, and the tests compile it for the CPU
// with a scheduler in place of the hardware (tests/native). Sums always run in the same order, so that two runs agree
// bit for bit; atomics only count blocks.
#pragma once

#include "numbers.h"

namespace prl::cuda {

// Arrays stay in registers only where the loops over them are unrolled.
#ifdef __CUDACC__
#define PRL_UNROLL _Pragma("unroll")
#else
#define PRL_UNROLL
#endif

constexpr int kWarp = 32;
constexpr unsigned kAll = 0xffffffffu;

// The map c -> b + d c.
struct Map {
  float b, d;
};

// Maps of some tokens: one where actor and critic share lambda, else the actor's and the critic's. `closed` once a row
// ends among the tokens: what stands to their right is another row's and must not be looked at, not even times zero.
template <int N>
struct Maps {
  Map of[N];
  int closed;
};

template <int N>
PRL_HD Maps<N> identity() {
  Maps<N> maps;
  PRL_UNROLL
  for (int n = 0; n < N; ++n) maps.of[n] = Map{0, 1};
  maps.closed = 0;
  return maps;
}

// `left` after `right`: the tokens of `left` stand before those of `right`.
template <int N>
PRL_HD Maps<N> compose(const Maps<N>& left, const Maps<N>& right) {
  Maps<N> maps;
  PRL_UNROLL
  for (int n = 0; n < N; ++n) {
    const Map &l = left.of[n], &r = right.of[n];
    maps.of[n] = left.closed ? l : Map{l.b + l.d * r.b, l.d * r.d};
  }
  maps.closed = left.closed | right.closed;
  return maps;
}

// Floats in memory, of either type.
struct Tokens {
  const void* data;
  bool is_bf16;
};

struct Given {
  Tokens rewards;
};

struct Shaped {
  Tokens logprobs, ref_logprobs;
  float coefficient;  // 0: the log-probabilities are not read
  Estimator estimator;
};

// Where blocks meet, in one piece of memory whose first part is zeroed before the launch.
struct Meeting {
  unsigned* counters;  // [2]: blocks that have started, blocks that have finished
  unsigned* ready;     // [num_chunks]: 1 once the chunk's map is there
  double* partials;    // [num_chunks, 3]
  float* maps;         // [num_chunks, 2 N + 1]

  static int64_t zeroed_bytes(int64_t num_chunks) { return (8 + 4 * num_chunks + 15) / 16 * 16; }
  static int64_t bytes(int64_t num_chunks, int num_maps) {
    return zeroed_bytes(num_chunks) + num_chunks * (3 * sizeof(double) + sizeof(float) * (2 * num_maps + 1));
  }
  void lie_at(char* memory, int64_t num_chunks) {
    counters = reinterpret_cast<unsigned*>(memory);
    ready = counters + 2;
    partials = reinterpret_cast<double*>(memory + zeroed_bytes(num_chunks));
    maps = reinterpret_cast<float*>(partials + 3 * num_chunks);
  }
};

// Tokens that a block can hold of rows of a width: chunks of whole rows may begin up to items - 1 places into a vector,
// unless the width is a multiple of `items`.
inline int64_t room_for(int64_t width, int64_t threads, int64_t items) {
  return threads * items - (width % items ? items - 1 : 0);
}

template <class Source>
struct Problem {
  Source source;
  Tokens values;
  const uint8_t* mask;  // any byte but zero counts
  const float* scores;  // [B], or null
  Decays decays;
  const int64_t* offsets;  // [B + 1] of packed rows, or null
  int64_t width;           // T of padded rows
  int64_t num_rows, num_tokens;
  int64_t chunk;       // tokens per block, at most Threads * Items (less Items - 1 where it is no multiple of Items)
  int64_t num_chunks;
  bool independent;    // every chunk ends where a row ends
  Meeting meeting;
  float *advantages, *returns;
  double* moments;  // [3], or null

  bool needs_meeting() const { return !independent || moments; }

  // Cuts the tokens into chunks for blocks of `threads` times `items`: whole rows where a block holds one, so that
  // blocks need not wait for each other.
  void cut(int64_t threads, int64_t items) {
    const int64_t whole_rows = width ? room_for(width, threads, items) / width * width : 0;
    chunk = whole_rows ? whole_rows : threads * items;
    num_chunks = (num_tokens + chunk - 1) / chunk;
    independent = whole_rows > 0 || num_chunks == 1;
  }
};

// Places inside a block's stretch of tokens are counted from `base`, in 32 bits: registers decide how many threads fit.
PRL_HD int place(int64_t p, int64_t base) {
  constexpr int64_t kFar = 1 << 30;
  const int64_t local = p - base;
  return static_cast<int>(local < -kFar ? -kFar : local > kFar ? kFar : local);
}

constexpr int kItems = 8;  // tokens of a thread: two vectors of floats in flight for each tensor

// Threads of a block: as few as hold a row, which goes up to about 4096 tokens. Longer rows, and packed ones (width 0),
// are shared by blocks.
inline int threads_for(int64_t width) {
  for (int threads : {128, 256, 512}) {
    if (width > 0 && width <= room_for(width, threads, kItems)) return threads;
  }
  return 256;
}

// Starts the kernel on a CUDA stream, after `cut` and `lie_at`; null, or what went wrong. Defined in gae_cuda.cu.
template <class Source>
const char* launch(const Problem<Source>& problem, int threads, void* stream);

// The row that a thread is in, walking to the left.
struct Cursor {
  int row, begin, end;
  float actor, critic, score;

  template <class P>
  PRL_HD void enter(const P& problem, int64_t base, int index) {
    row = index;
    const int64_t first = problem.offsets ? problem.offsets[row] : row * problem.width;
    begin = place(first, base);
    end = place(problem.offsets ? problem.offsets[row + 1] : first + problem.width, base);
    actor = problem.decays.actor_of(row);
    critic = problem.decays.critic_of(row);
    score = problem.scores ? problem.scores[row] : 0;
  }

  // To the row of token p: a division, or the last offset that is not beyond p.
  template <class P>
  PRL_HD void find(const P& problem, int64_t base, int64_t p) {
    int low = 0, high = static_cast<int>(problem.num_rows);
    if (!problem.offsets) {
      low = static_cast<int>(p / problem.width);
    } else {
      while (high - low > 1) {
        const int middle = low + (high - low) / 2;
        (problem.offsets[middle] <= p ? low : high) = middle;
      }
    }
    enter(problem, base, low);
  }

  template <class P>
  PRL_HD void retreat(const P& problem, int64_t base, int place) {
    while (place < begin && row > 0) enter(problem, base, row - 1);
  }
};

// Items of one thread as vectors of 16 bytes, or of all its bytes where these are fewer.
template <class T, int Items>
struct Vectors {
  static constexpr int kEach = Items * sizeof(T) < 16 ? Items : 16 / sizeof(T);
  struct alignas(kEach * sizeof(T)) Vector {
    T item[kEach];
  };
  static PRL_HD bool fits(const T* place) {
    return reinterpret_cast<uintptr_t>(place) % sizeof(Vector) == 0;
  }
};

// What a token is in registers.
PRL_HD float value_of(float x) {
  return x;
}
PRL_HD float value_of(bf16 x) {
  return to_float(x);
}
PRL_HD bool value_of(uint8_t x) {
  return x != 0;
}

// Tokens first ... first + Items - 1 as floats (or flags); those outside [begin, end) are left at zero.
template <class T, int Items, class Out>
PRL_HD void load(const T* data, int first, int begin, int end, Out* out) {
  using V = Vectors<T, Items>;
  const T* tokens = data + first;
  if (first >= begin && first + Items <= end && V::fits(tokens)) {
    typename V::Vector vectors[Items / V::kEach];
    PRL_UNROLL
    for (int k = 0; k < Items / V::kEach; ++k) vectors[k] = reinterpret_cast<const typename V::Vector*>(tokens)[k];
    PRL_UNROLL
    for (int i = 0; i < Items; ++i) out[i] = value_of(vectors[i / V::kEach].item[i % V::kEach]);
  } else {
    PRL_UNROLL
    for (int i = 0; i < Items; ++i) {
      const bool mine = first + i >= begin && first + i < end;
      out[i] = mine ? value_of(tokens[i]) : value_of(T{});
    }
  }
}

template <int Items>
PRL_HD void load(const Tokens& tokens, int64_t base, int first, int begin, int end, float* out) {
  tokens.is_bf16 ? load<bf16, Items>(static_cast<const bf16*>(tokens.data) + base, first, begin, end, out)
                 : load<float, Items>(static_cast<const float*>(tokens.data) + base, first, begin, end, out);
}

template <int Items>
PRL_HD void store(float* data, int first, int begin, int end, const float* in) {
  using V = Vectors<float, Items>;
  if (first >= begin && first + Items <= end && V::fits(data + first)) {
    PRL_UNROLL
    for (int k = 0; k < Items / V::kEach; ++k) {
      typename V::Vector vector;
      PRL_UNROLL
      for (int i = 0; i < V::kEach; ++i) vector.item[i] = in[k * V::kEach + i];
      reinterpret_cast<typename V::Vector*>(data + first)[k] = vector;
    }
  } else {
    PRL_UNROLL
    for (int i = 0; i < Items; ++i) {
      if (first + i >= begin && first + i < end) data[first + i] = in[i];
    }
  }
}

// Consecutive tokens of one thread, in registers.
template <int Items>
struct Piece {
  float reward[Items], value[Items];
  unsigned counts;  // bit i: token i counts
  int64_t base;     // what places are counted from, a multiple of Items
  int first;        // place of the piece
  int begin, end;   // places of the block's own tokens
  Cursor cursor;    // at the piece's last token

  PRL_HD bool has(int i) const { return first + i >= begin && first + i < end; }
  PRL_HD bool is_counted(int i) const { return counts >> i & 1; }
  PRL_HD void load(const Tokens& tokens, float* out) const {
    cuda::load<Items>(tokens, base, first, begin, end, out);
  }
};

template <int Items>
PRL_HD void load_rewards(const Given& source, const Piece<Items>& piece, float* out) {
  piece.load(source.rewards, out);
}

template <int Items>
PRL_HD void load_rewards(const Shaped& source, const Piece<Items>& piece, float* out) {
  float reference[Items];
  PRL_UNROLL
  for (int i = 0; i < Items; ++i) out[i] = 0;
  if (source.coefficient == 0) return;
  piece.load(source.logprobs, out);
  piece.load(source.ref_logprobs, reference);
  PRL_UNROLL
  for (int i = 0; i < Items; ++i) {
    out[i] = -source.coefficient * token_kl(out[i] - reference[i], source.estimator);
  }
}

// c of a token from c of the next one that counts.
PRL_HD float step(float reward, float value, bool counts, float gamma, float decay, float next) {
  return counts ? gamma * value + decay * (reward - value + next) : next;
}

template <int Items, class Source>
PRL_HD void load_piece(const Problem<Source>& problem, Piece<Items>& piece) {
  load_rewards<Items>(problem.source, piece, piece.reward);
  piece.load(problem.values, piece.value);
  bool counts[Items];
  load<uint8_t, Items>(problem.mask + piece.base, piece.first, piece.begin, piece.end, counts);
  piece.counts = 0;
  PRL_UNROLL
  for (int i = 0; i < Items; ++i) piece.counts |= static_cast<unsigned>(counts[i]) << i;
  const int last = piece.first + Items - 1;
  piece.cursor = Cursor{0, 0, 0, 0, 0, 0};
  if (piece.first < piece.end && last >= piece.begin) {
    piece.cursor.find(problem, piece.base, piece.base + (last < piece.end ? last : piece.end - 1));
  }
}

// The composed map of a thread's tokens.
template <int N, int Items, class Source>
PRL_HD Maps<N> summarise(const Problem<Source>& problem, const Piece<Items>& piece) {
  Maps<N> maps = identity<N>();
  Cursor cursor = piece.cursor;
  PRL_UNROLL
  for (int i = Items - 1; i >= 0; --i) {
    if (!piece.has(i)) continue;
    const int p = piece.first + i;
    cursor.retreat(problem, piece.base, p);
    const float decays[2] = {cursor.actor, cursor.critic};
    maps.closed |= p + 1 == cursor.end;
    PRL_UNROLL
    for (int n = 0; n < N; ++n) {
      Map& map = maps.of[n];
      if (p + 1 == cursor.end) map = Map{cursor.score, 0};
      if (!piece.is_counted(i)) continue;
      // step() of b, with d carried along
      map.b = step(piece.reward[i], piece.value[i], true, problem.decays.gamma, decays[n], map.b);
      map.d = decays[n] * map.d;
    }
  }
  return maps;
}

struct Moments {
  double count, sum, square;
};

// Results of a thread's tokens, given c of the token to their right; returns the sums of the advantages.
template <int N, int Items, class Source>
PRL_HD Moments finish(const Problem<Source>& problem, const Piece<Items>& piece, const float* carry) {
  float advantages[Items], returns[Items], c[N];
  Moments moments{0, 0, 0};
  PRL_UNROLL
  for (int n = 0; n < N; ++n) c[n] = carry[n];
  Cursor cursor = piece.cursor;
  PRL_UNROLL
  for (int i = Items - 1; i >= 0; --i) {
    advantages[i] = returns[i] = 0;
    if (!piece.has(i)) continue;
    const int p = piece.first + i;
    cursor.retreat(problem, piece.base, p);
    const float decays[2] = {cursor.actor, cursor.critic};
    const bool counts = piece.is_counted(i);
    PRL_UNROLL
    for (int n = 0; n < N; ++n) {
      const float next = p + 1 == cursor.end ? cursor.score : c[n];
      if (counts && n == 0) advantages[i] = piece.reward[i] - piece.value[i] + next;
      if (counts && n == N - 1) returns[i] = piece.reward[i] + next;
      c[n] = step(piece.reward[i], piece.value[i], counts, problem.decays.gamma, decays[n], next);
    }
    moments.count += counts;
    moments.sum += advantages[i];
    moments.square += static_cast<double>(advantages[i]) * advantages[i];
  }
  store<Items>(problem.advantages + piece.base, piece.first, piece.begin, piece.end, advantages);
  store<Items>(problem.returns + piece.base, piece.first, piece.begin, piece.end, returns);
  return moments;
}

#if defined(__CUDACC__) || defined(PRL_ON_HOST)

#ifdef __CUDACC__
__device__ __forceinline__ void wait_a_little() {
  __nanosleep(40);
}

// What blocks leave for each other: no register keeps it, and only fences order it.
template <class T>
__device__ __forceinline__ void store_for_blocks(T* place, T value) {
  *static_cast<volatile T*>(place) = value;
}
template <class T>
__device__ __forceinline__ T load_of_block(const T* place) {
  return *static_cast<const volatile T*>(place);
}
__device__ __forceinline__ void raise_flag(unsigned* flag) {
  *static_cast<volatile unsigned*>(flag) = 1;
}
__device__ __forceinline__ bool is_raised(const unsigned* flag) {
  return *static_cast<const volatile unsigned*>(flag) != 0;
}
#endif

template <int N>
__device__ Maps<N> shift_down(const Maps<N>& maps, int delta) {
  Maps<N> shifted;
  PRL_UNROLL
  for (int n = 0; n < N; ++n) {
    shifted.of[n].b = __shfl_down_sync(kAll, maps.of[n].b, delta);
    shifted.of[n].d = __shfl_down_sync(kAll, maps.of[n].d, delta);
  }
  shifted.closed = __shfl_down_sync(kAll, maps.closed, delta);
  return shifted;
}

// Each lane gets the composition of its own map and those of all lanes to its right.
template <int N>
__device__ Maps<N> scan_warp(Maps<N> maps) {
  const int lane = threadIdx.x % kWarp;
  for (int delta = 1; delta < kWarp; delta *= 2) {
    const Maps<N> right = shift_down(maps, delta);
    if (lane + delta < kWarp) maps = compose(maps, right);
  }
  return maps;
}

// Each thread gets the composition of the maps of all threads to its right; `total` is right in thread 0 only.
template <int Threads, int N>
__device__ Maps<N> scan_block(const Maps<N>& own, Maps<N>* total) {
  __shared__ Maps<N> warps[Threads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const Maps<N> inclusive = scan_warp(own);
  Maps<N> exclusive = shift_down(inclusive, 1);
  if (lane == kWarp - 1) exclusive = identity<N>();
  if (lane == 0) warps[warp] = inclusive;
  __syncthreads();
  Maps<N> right = identity<N>();
  for (int w = Threads / kWarp - 1; w > warp; --w) right = compose(warps[w], right);
  *total = compose(inclusive, right);
  return compose(exclusive, right);
}

template <int N>
__device__ void publish(const Meeting& meeting, int64_t chunk, const Maps<N>& maps) {
  float* place = meeting.maps + chunk * (2 * N + 1);
  PRL_UNROLL
  for (int n = 0; n < N; ++n) {
    store_for_blocks(place + 2 * n, maps.of[n].b);
    store_for_blocks(place + 2 * n + 1, maps.of[n].d);
  }
  store_for_blocks(place + 2 * N, static_cast<float>(maps.closed));
  __threadfence();
  raise_flag(meeting.ready + chunk);
}

template <int N>
__device__ Maps<N> await(const Meeting& meeting, int64_t chunk) {
  while (!is_raised(meeting.ready + chunk)) wait_a_little();
  __threadfence();
  const float* place = meeting.maps + chunk * (2 * N + 1);
  Maps<N> maps;
  PRL_UNROLL
  for (int n = 0; n < N; ++n) {
    maps.of[n].b = load_of_block(place + 2 * n);
    maps.of[n].d = load_of_block(place + 2 * n + 1);
  }
  maps.closed = load_of_block(place + 2 * N) != 0;
  return maps;
}

// c at the right end of a chunk that ends inside a row: the maps of the chunks up to that row's end, one warp at work.
template <int N, class Source>
__device__ Maps<N> gather(const Problem<Source>& problem, int64_t chunk) {
  const int64_t last_token = (chunk + 1) * problem.chunk - 1;
  Cursor cursor{};
  cursor.find(problem, last_token, last_token);
  const int64_t row_end = problem.offsets ? problem.offsets[cursor.row + 1] : (cursor.row + 1) * problem.width;
  const int64_t last = ((row_end < problem.num_tokens ? row_end : problem.num_tokens) - 1) / problem.chunk;
  Maps<N> all = identity<N>();
  for (int64_t next = chunk + 1; next <= last; next += kWarp) {
    const int64_t mine = next + threadIdx.x;
    Maps<N> maps = scan_warp(mine <= last ? await<N>(problem.meeting, mine) : identity<N>());
    PRL_UNROLL
    for (int n = 0; n < N; ++n) {
      maps.of[n].b = __shfl_sync(kAll, maps.of[n].b, 0);
      maps.of[n].d = __shfl_sync(kAll, maps.of[n].d, 0);
    }
    maps.closed = __shfl_sync(kAll, maps.closed, 0);
    all = compose(all, maps);
  }
  return all;
}

// Sums over the block, always in the same order; right in thread 0 only.
template <int Threads>
__device__ Moments sum_block(Moments own) {
  __shared__ Moments warps[Threads / kWarp];
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  for (int delta = kWarp / 2; delta > 0; delta /= 2) {
    own.count += __shfl_down_sync(kAll, own.count, delta);
    own.sum += __shfl_down_sync(kAll, own.sum, delta);
    own.square += __shfl_down_sync(kAll, own.square, delta);
  }
  if (lane == 0) warps[warp] = own;
  __syncthreads();
  Moments total{0, 0, 0};
  for (int w = 0; w < Threads / kWarp && threadIdx.x == 0; ++w) {
    total.count += warps[w].count;
    total.sum += warps[w].sum;
    total.square += warps[w].square;
  }
  return total;
}

// The block that finishes last adds up what all blocks have found, in the order of the chunks.
template <int Threads, class Source>
__device__ void add_moments(const Problem<Source>& problem, int64_t chunk, const Moments& own) {
  __shared__ bool is_last;
  Moments moments = sum_block<Threads>(own);
  if (threadIdx.x == 0) {
    double* place = problem.meeting.partials + 3 * chunk;
    store_for_blocks(place, moments.count);
    store_for_blocks(place + 1, moments.sum);
    store_for_blocks(place + 2, moments.square);
    __threadfence();
    is_last = atomicAdd(problem.meeting.counters + 1, 1u) == problem.num_chunks - 1;
  }
  __syncthreads();
  if (!is_last) return;
  __threadfence();
  moments = Moments{0, 0, 0};
  for (int64_t k = threadIdx.x; k < problem.num_chunks; k += Threads) {
    const double* place = problem.meeting.partials + 3 * k;
    moments.count += load_of_block(place);
    moments.sum += load_of_block(place + 1);
    moments.square += load_of_block(place + 2);
  }
  moments = sum_block<Threads>(moments);
  if (threadIdx.x == 0) {
    problem.moments[0] = moments.count;
    problem.moments[1] = moments.sum;
    problem.moments[2] = moments.square;
  }
}

// The chunk of this block. Chunks that need each other are handed out from the right in the order in which blocks
// start, so that a block only ever waits for blocks that already run.
template <class Source>
__device__ int64_t take_chunk(const Problem<Source>& problem) {
  __shared__ int64_t chunk;
  if (problem.independent) return blockIdx.x;
  if (threadIdx.x == 0) chunk = problem.num_chunks - 1 - atomicAdd(problem.meeting.counters, 1u);
  __syncthreads();
  return chunk;
}

template <int Threads, int Items, int N, class Source>
__global__ void __launch_bounds__(Threads) scan(const Problem<Source> problem) {
  __shared__ float carry[N];
  const int64_t chunk = take_chunk(problem);
  const int64_t begin = chunk * problem.chunk;
  const int64_t left = problem.num_tokens - begin;
  Piece<Items> piece;
  piece.base = begin / Items * Items;  // vectors are aligned, whatever the chunk
  piece.first = static_cast<int>(threadIdx.x) * Items;
  piece.begin = static_cast<int>(begin - piece.base);
  piece.end = piece.begin + static_cast<int>(left < problem.chunk ? left : problem.chunk);
  load_piece(problem, piece);
  Maps<N> total;
  const Maps<N> right = scan_block<Threads>(summarise<N>(problem, piece), &total);
  const bool last = chunk == problem.num_chunks - 1;
  if (!problem.independent && threadIdx.x == 0) publish(problem.meeting, chunk, total);
  if (threadIdx.x < kWarp) {
    const Maps<N> beyond = problem.independent || last ? identity<N>() : gather<N>(problem, chunk);
    for (int n = 0; n < N && threadIdx.x == 0; ++n) carry[n] = beyond.of[n].b;
  }
  __syncthreads();
  float c[N];
  PRL_UNROLL
  for (int n = 0; n < N; ++n) c[n] = right.closed ? right.of[n].b : right.of[n].b + right.of[n].d * carry[n];
  const Moments moments = finish<N>(problem, piece, c);
  if (problem.moments) add_moments<Threads>(problem, chunk, moments);
}

#endif  // __CUDACC__ || PRL_ON_HOST

}  // namespace prl::cuda
