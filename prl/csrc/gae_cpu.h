// GAE on the CPU: every row from its last token to its first; of padded rows eight side by side where AVX2 is there.
//
// The order of operations is that of the reference in prl/ops/reference.py and nothing is contracted (compile with
// -ffp-contract=off), so float32 results are equal to it bit for bit, whatever the number of threads and lanes.
#pragma once

#include <algorithm>

#include "numbers.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define PRL_AVX2 1
#include <immintrin.h>
#endif

namespace prl::cpu {

// Where the tokens of a row lie in one tensor: rows of equal length `stride` apart, or packed at `offsets`.
template <class T>
struct Array {
  const T* data;
  int64_t stride;
  const int64_t* offsets;  // [B + 1], or null

  const T* row(int64_t index) const {
    return data + (offsets ? offsets[index] : index * stride);
  }
};

// Token rewards that are given: prl::gae.
template <class T>
struct GivenRewards {
  Array<T> rewards;
};

// Token rewards -coefficient * KL, made on the fly: prl::shaped_gae.
template <class T>
struct KLRewards {
  Array<T> logprobs, ref_logprobs;
  float coefficient;  // 0: the log-probabilities are not read
  Estimator estimator;
};

// What a row hands from one token to the one before it.
struct Carry {
  float value = 0, advantage = 0, trace = 0;  // of the next token that counts; zeros after the last
  float score = 0;                            // waits for the last token that counts
  double sum = 0, square = 0;                 // of the advantages so far
  int64_t count = 0;
};

template <class T>
struct GivenRow {
  const T* rewards;
  explicit GivenRow(const GivenRewards<T>& source, int64_t row) : rewards(source.rewards.row(row)) {}
  float operator()(int64_t t) const { return to_float(rewards[t]); }
};

template <class T>
struct KLRow {
  const T *logprobs, *ref_logprobs;
  float coefficient;
  Estimator estimator;
  explicit KLRow(const KLRewards<T>& source, int64_t row)
      : logprobs(source.logprobs.row(row)),
        ref_logprobs(source.ref_logprobs.row(row)),
        coefficient(source.coefficient),
        estimator(source.estimator) {}
  float operator()(int64_t t) const {
    if (coefficient == 0) return 0;
    return -coefficient * token_kl(to_float(logprobs[t]) - to_float(ref_logprobs[t]), estimator);
  }
};

template <class T>
GivenRow<T> row_of(const GivenRewards<T>& source, int64_t row) {
  return GivenRow<T>(source, row);
}
template <class T>
KLRow<T> row_of(const KLRewards<T>& source, int64_t row) {
  return KLRow<T>(source, row);
}

template <class Source, class V>
struct Problem {
  Source source;
  Array<V> values;
  Array<uint8_t> mask;  // any byte but zero counts
  const float* scores;  // [B], or null
  Decays decays;
  const int64_t* offsets;  // [B + 1], or null
  int64_t width;           // T of padded rows
  float *advantages, *returns;  // contiguous
  bool stream;                  // write past the caches: the results are larger than these

  int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * width; }
  int64_t length(int64_t row) const { return offsets ? offsets[row + 1] - offsets[row] : width; }
};

// Tokens begin ... end - 1 of one row, from the last to the first; returns what they hand on.
template <class Source, class V>
Carry scan(const Problem<Source, V>& problem, int64_t row, int64_t begin, int64_t end, Carry carry) {
  const auto reward = row_of(problem.source, row);
  const V* values = problem.values.row(row);
  const uint8_t* mask = problem.mask.row(row);
  const float gamma = problem.decays.gamma;
  const float actor = problem.decays.actor_of(row), critic = problem.decays.critic_of(row);
  float* advantages = problem.advantages + problem.begin(row);
  float* returns = problem.returns + problem.begin(row);
  for (int64_t t = end - 1; t >= begin; --t) {
    const float value = to_float(values[t]);
    const float delta = ((reward(t) + carry.score) + gamma * carry.value) - value;
    const float advantage = delta + actor * carry.advantage;
    const float trace = delta + critic * carry.trace;
    const bool counts = mask[t] != 0;
    advantages[t] = counts ? advantage : 0;
    returns[t] = counts ? trace + value : 0;
    carry.advantage = counts ? advantage : carry.advantage;
    carry.trace = counts ? trace : carry.trace;
    carry.value = counts ? value : carry.value;
    carry.score = counts ? 0 : carry.score;
    const double wide = counts ? advantage : 0;
    carry.sum += wide;
    carry.square += wide * wide;
    carry.count += counts;
  }
  return carry;
}

template <class Source, class V>
Carry start(const Problem<Source, V>& problem, int64_t row) {
  Carry carry;
  carry.score = problem.scores ? problem.scores[row] : 0;
  return carry;
}

#ifdef PRL_AVX2
#define PRL_LANES __attribute__((target("avx2")))
#define PRL_INLINE __attribute__((target("avx2"), always_inline)) inline

// Eight rows of eight numbers become eight columns.
PRL_INLINE void transpose(__m256* x) {
  __m256 quads[8];
  for (int half = 0; half < 8; half += 4) {
    const __m256 low01 = _mm256_unpacklo_ps(x[half], x[half + 1]), high01 = _mm256_unpackhi_ps(x[half], x[half + 1]);
    const __m256 low23 = _mm256_unpacklo_ps(x[half + 2], x[half + 3]);
    const __m256 high23 = _mm256_unpackhi_ps(x[half + 2], x[half + 3]);
    quads[half] = _mm256_shuffle_ps(low01, low23, 0x44);
    quads[half + 1] = _mm256_shuffle_ps(low01, low23, 0xEE);
    quads[half + 2] = _mm256_shuffle_ps(high01, high23, 0x44);
    quads[half + 3] = _mm256_shuffle_ps(high01, high23, 0xEE);
  }
  for (int k = 0; k < 4; ++k) {
    x[k] = _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x20);
    x[k + 4] = _mm256_permute2f128_ps(quads[k], quads[k + 4], 0x31);
  }
}

PRL_INLINE __m256 load8(const float* p) {
  return _mm256_loadu_ps(p);
}
PRL_INLINE __m256 load8(const bf16* p) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
PRL_INLINE __m256 load8(const uint8_t* p) {  // all bits set where a token counts
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return _mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_cvtepu8_epi32(bytes), _mm256_setzero_si256()));
}
template <class T>
PRL_INLINE __m256 rewards8(const GivenRow<T>& row, int64_t t) {
  return load8(row.rewards + t);
}
template <class T>
PRL_INLINE __m256 rewards8(const KLRow<T>& row, int64_t t) {
  if (row.coefficient == 0) return _mm256_setzero_ps();
  const __m256 minus = _mm256_set1_ps(-row.coefficient);
  const __m256 d = _mm256_sub_ps(load8(row.logprobs + t), load8(row.ref_logprobs + t));
  if (row.estimator == Estimator::k1) return _mm256_mul_ps(minus, d);
  if (row.estimator == Estimator::k2) {
    return _mm256_mul_ps(minus, _mm256_mul_ps(_mm256_mul_ps(d, d), _mm256_set1_ps(0.5f)));
  }
  alignas(32) float one_by_one[8];
  for (int k = 0; k < 8; ++k) one_by_one[k] = row(t + k);
  return _mm256_load_ps(one_by_one);
}

// The carries of eight rows, one per lane.
struct Carries {
  __m256 value, advantage, trace, score;
  __m256d sums[2], squares[2];
};

PRL_INLINE void add_moments(Carries& carry, __m256 advantage) {
  const __m256d wide[2] = {
      _mm256_cvtps_pd(_mm256_castps256_ps128(advantage)), _mm256_cvtps_pd(_mm256_extractf128_ps(advantage, 1))};
  for (int half = 0; half < 2; ++half) {
    carry.sums[half] = _mm256_add_pd(carry.sums[half], wide[half]);
    carry.squares[half] = _mm256_add_pd(carry.squares[half], _mm256_mul_pd(wide[half], wide[half]));
  }
}

// Eight tokens of eight rows, after the transposition: x holds rewards and becomes advantages, y values and returns.
template <bool kMoments>
PRL_INLINE void step8(
    __m256* x, __m256* y, const __m256* counts, __m256 gamma, __m256 actor, __m256 critic, Carries& carry) {
#pragma GCC unroll 8
  for (int t = 7; t >= 0; --t) {
    const __m256 reward = _mm256_add_ps(x[t], carry.score);
    const __m256 delta = _mm256_sub_ps(_mm256_add_ps(reward, _mm256_mul_ps(gamma, carry.value)), y[t]);
    const __m256 advantage = _mm256_add_ps(delta, _mm256_mul_ps(actor, carry.advantage));
    const __m256 trace = _mm256_add_ps(delta, _mm256_mul_ps(critic, carry.trace));
    const __m256 result = _mm256_and_ps(counts[t], _mm256_add_ps(trace, y[t]));
    x[t] = _mm256_and_ps(counts[t], advantage);
    carry.advantage = _mm256_blendv_ps(carry.advantage, advantage, counts[t]);
    carry.trace = _mm256_blendv_ps(carry.trace, trace, counts[t]);
    carry.value = _mm256_blendv_ps(carry.value, y[t], counts[t]);
    carry.score = _mm256_andnot_ps(counts[t], carry.score);
    y[t] = result;
    if (kMoments) add_moments(carry, x[t]);
  }
}

constexpr int kStage = 256;  // columns of a row that are finished in the first-level cache before they are written

// A stage of one row goes to memory; past the caches where it fills whole lines of 64 bytes.
PRL_INLINE void write(float* target, const float* staged, int64_t columns, bool stream) {
  constexpr int64_t kLine = 16;
  int64_t done = (64 - reinterpret_cast<uintptr_t>(target) % 64) % 64 / sizeof(float);
  if (!stream || done + kLine > columns) {
    memcpy(target, staged, columns * sizeof(float));
    return;
  }
  memcpy(target, staged, done * sizeof(float));
  for (; done + kLine <= columns; done += kLine) {
    _mm256_stream_ps(target + done, _mm256_loadu_ps(staged + done));
    _mm256_stream_ps(target + done + 8, _mm256_loadu_ps(staged + done + 8));
  }
  memcpy(target + done, staged + done, (columns - done) * sizeof(float));
}

// Tokens 0 ... end - 1 of rows first ... first + 7, where end is a multiple of eight.
template <bool kMoments, class Source, class V>
PRL_LANES void scan8(const Problem<Source, V>& problem, int64_t first, int64_t end, Carry* rows) {
  // Padded so that equal columns of the eight rows do not fall into one set of the cache.
  alignas(64) float advantages[8][kStage + 16], returns[8][kStage + 16];
  alignas(32) float lane[6][8];
  for (int k = 0; k < 8; ++k) {
    const float numbers[6] = {rows[k].value, rows[k].advantage, rows[k].trace, rows[k].score,
        problem.decays.actor_of(first + k), problem.decays.critic_of(first + k)};
    for (int n = 0; n < 6; ++n) lane[n][k] = numbers[n];
  }
  Carries carry{_mm256_load_ps(lane[0]), _mm256_load_ps(lane[1]), _mm256_load_ps(lane[2]), _mm256_load_ps(lane[3]),
      {_mm256_setr_pd(rows[0].sum, rows[1].sum, rows[2].sum, rows[3].sum),
          _mm256_setr_pd(rows[4].sum, rows[5].sum, rows[6].sum, rows[7].sum)},
      {_mm256_setr_pd(rows[0].square, rows[1].square, rows[2].square, rows[3].square),
          _mm256_setr_pd(rows[4].square, rows[5].square, rows[6].square, rows[7].square)}};
  const __m256 gamma = _mm256_set1_ps(problem.decays.gamma);
  const __m256 actor = _mm256_load_ps(lane[4]), critic = _mm256_load_ps(lane[5]);
  __m256i counted = _mm256_setzero_si256();
  for (int64_t right = end; right > 0;) {
    const int64_t left = right > kStage ? right - kStage : 0;
    for (int64_t t = right - 8; t >= left; t -= 8) {
      __m256 x[8], y[8], counts[8];
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        x[k] = rewards8(row_of(problem.source, first + k), t);
        y[k] = load8(problem.values.row(first + k) + t);
        counts[k] = load8(problem.mask.row(first + k) + t);
      }
      transpose(x);
      transpose(y);
      transpose(counts);
      step8<kMoments>(x, y, counts, gamma, actor, critic, carry);
      if (kMoments) {
        for (int k = 0; k < 8; ++k) counted = _mm256_sub_epi32(counted, _mm256_castps_si256(counts[k]));
      }
      transpose(x);
      transpose(y);
#pragma GCC unroll 8
      for (int k = 0; k < 8; ++k) {
        _mm256_store_ps(&advantages[k][t - left], x[k]);
        _mm256_store_ps(&returns[k][t - left], y[k]);
      }
    }
    for (int k = 0; k < 8; ++k) {
      const int64_t place = problem.begin(first + k) + left;
      write(problem.advantages + place, advantages[k], right - left, problem.stream);
      write(problem.returns + place, returns[k], right - left, problem.stream);
    }
    right = left;
  }
  alignas(32) int32_t counts[8];
  _mm256_store_si256(reinterpret_cast<__m256i*>(counts), counted);
  for (int k = 0; k < 8; ++k) {
    alignas(32) double half[4];
    _mm256_store_pd(half, carry.sums[k / 4]);
    rows[k].sum = half[k % 4];
    _mm256_store_pd(half, carry.squares[k / 4]);
    rows[k].square = half[k % 4];
    rows[k].count += counts[k];
  }
  if (problem.stream) _mm_sfence();
}
#endif  // PRL_AVX2

inline bool has_lanes() {
#ifdef PRL_AVX2
  static const bool supported = __builtin_cpu_supports("avx2");
  return supported;
#else
  return false;
#endif
}

// Rows first ... last - 1; carries[row] is what a row hands on from its first token, if wanted.
template <class Source, class V>
void scan_rows(const Problem<Source, V>& problem, int64_t first, int64_t last, Carry* carries) {
  int64_t row = first;
#ifdef PRL_AVX2
  for (; has_lanes() && !problem.offsets && row + 8 <= last; row += 8) {
    Carry eight[8];
    const int64_t end = problem.width / 8 * 8;
    for (int k = 0; k < 8; ++k) {
      eight[k] = scan(problem, row + k, end, problem.width, start(problem, row + k));
    }
    carries ? scan8<true>(problem, row, end, eight) : scan8<false>(problem, row, end, eight);
    if (carries) std::copy(eight, eight + 8, carries + row);
  }
#endif
  for (; row < last; ++row) {
    const Carry carry = scan(problem, row, 0, problem.length(row), start(problem, row));
    if (carries) carries[row] = carry;
  }
}

}  // namespace prl::cpu
