// Numbers, KL and decays that the CPU and the CUDA kernel share. No torch header: nvcc or g++ alone compiles this.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define PRL_HD __host__ __device__ __forceinline__
#else
#define PRL_HD inline
#endif

namespace prl {

// A bfloat16 as it lies in memory: the upper half of a float.
struct bf16 {
  uint16_t bits;
};

PRL_HD float to_float(float x) {
  return x;
}

PRL_HD float to_float(bf16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof(value));
  return value;
}

enum class Estimator : int32_t { k1 = 1, k2 = 2, k3 = 3 };

// Estimate of KL(policy || reference) on one token, d = log policy - log reference: d, d^2 / 2 or exp(-d) - 1 + d.
PRL_HD float token_kl(float d, Estimator estimator) {
  if (estimator == Estimator::k1) return d;
  if (estimator == Estimator::k2) return d * d / 2;
  return expm1f(-d) + d;
}

// Discount times lambda, for all rows or for each.
struct Decays {
  float gamma, actor, critic;
  const float* row_lambda;  // [B], or null; stands in for the actor's lambda
  bool critic_follows;      // the critic's lambda is the actor's

  PRL_HD float actor_of(int64_t row) const {
    return row_lambda ? gamma * row_lambda[row] : actor;
  }
  PRL_HD float critic_of(int64_t row) const {
    return critic_follows ? actor_of(row) : critic;
  }
};

}  // namespace prl
