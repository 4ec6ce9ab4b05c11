// prl::gae and prl::shaped_gae for CPU tensors, against torch's stable ABI.
#include <vector>

#include "checks.h"
#include "gae_cpu.h"

namespace prl {
namespace {

constexpr int64_t kStreamFrom = 16 << 20;   // bytes of results from which they are written past the caches
constexpr int64_t kTokensPerThread = 8192;  // fewer do not pay for waking a thread

template <class T>
cpu::Array<T> array_of(const Tensor& tensor, const int64_t* offsets) {
  return cpu::Array<T>{static_cast<const T*>(tensor.const_data_ptr()), tensor.dim() == 2 ? tensor.stride(0) : 0, offsets};
}

void check_offsets(const MaybeTensor& offsets, int64_t num_tokens) {
  if (!offsets) return;
  const int64_t* starts = offsets_of(offsets);
  const int64_t num_rows = offsets->size(0) - 1;
  bool rising = starts[0] == 0 && starts[num_rows] == num_tokens;
  for (int64_t row = 0; row < num_rows; ++row) rising = rising && starts[row] <= starts[row + 1];
  STD_TORCH_CHECK(rising, "offsets must rise from 0 to N = ", num_tokens);
}

// Everything but the rewards, which the caller has made into a Source.
struct Call {
  int64_t num_rows;  // first, since its value is what the checks of the others return
  Tensor values, mask;
  MaybeTensor scores, row_lambda, offsets;
  Decays decays;
  Tensor advantages, returns;

  Call(const Tensor& values_, const Tensor& mask_, const MaybeTensor& scores_, double gamma, double gae_lambda,
      std::optional<double> critic_lambda, const MaybeTensor& row_lambda_, const MaybeTensor& offsets_)
      : num_rows(check_call(values_, mask_, scores_, row_lambda_, offsets_)),
        values(walkable(values_)),
        mask(walkable(mask_)),
        scores(contiguous(scores_)),
        row_lambda(contiguous(row_lambda_)),
        offsets(contiguous(offsets_)),
        decays(decays_of(gamma, gae_lambda, critic_lambda, row_lambda)),
        advantages(empty_like(mask, ScalarType::Float)),
        returns(empty_like(mask, ScalarType::Float)) {
    check_offsets(offsets, mask.numel());
  }

  template <class Source, class V>
  void run(const Source& source, V, cpu::Carry* carries) const {
    const int64_t* starts = offsets_of(offsets);
    const cpu::Problem<Source, V> problem{source, array_of<V>(values, starts), array_of<uint8_t>(mask, starts),
        scores ? static_cast<const float*>(scores->const_data_ptr()) : nullptr, decays, starts,
        starts ? 0 : mask.size(1), static_cast<float*>(advantages.mutable_data_ptr()),
        static_cast<float*>(returns.mutable_data_ptr()), 8 * mask.numel() >= kStreamFrom};
    const int64_t tokens_per_row = num_rows ? mask.numel() / num_rows + 1 : 1;
    // Groups of eight rows stay together, so that the split over threads leaves no group incomplete.
    torch::stable::parallel_for(0, (num_rows + 7) / 8, kTokensPerThread / (8 * tokens_per_row) + 1,
        [&](int64_t first, int64_t last) {
          cpu::scan_rows(problem, first * 8, std::min(last * 8, num_rows), carries);
        });
  }
};

std::tuple<Tensor, Tensor> gae(Tensor rewards, Tensor values, Tensor mask, double gamma, double gae_lambda,
    std::optional<double> critic_lambda, MaybeTensor row_lambda, MaybeTensor offsets) {
  const Call call(values, mask, std::nullopt, gamma, gae_lambda, critic_lambda, row_lambda, offsets);
  check_tokens(rewards, call.mask, "rewards");
  const Tensor given = walkable(rewards);
  by_dtype(given, [&](auto r) {
    by_dtype(call.values, [&](auto v) {
      call.run(cpu::GivenRewards<decltype(r)>{array_of<decltype(r)>(given, offsets_of(call.offsets))}, v, nullptr);
    });
  });
  return {call.advantages, call.returns};
}

// Count, sum and sum of squares over the rows, in their order: the same for any number of threads.
Tensor moments_of(const std::vector<cpu::Carry>& carries, const Tensor& mask) {
  Tensor moments = torch::stable::empty({3}, ScalarType::Double, std::nullopt, mask.device());
  double* sums = static_cast<double*>(moments.mutable_data_ptr());
  std::fill(sums, sums + 3, 0.0);
  for (const cpu::Carry& carry : carries) {
    sums[0] += static_cast<double>(carry.count);
    sums[1] += carry.sum;
    sums[2] += carry.square;
  }
  return moments;
}

std::tuple<Tensor, Tensor, Tensor> shaped_gae(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor values,
    Tensor mask, double kl_coef, std::string kl_estimator, double gamma, double gae_lambda,
    std::optional<double> critic_lambda, MaybeTensor row_lambda, MaybeTensor offsets) {
  const Call call(values, mask, scores, gamma, gae_lambda, critic_lambda, row_lambda, offsets);
  check_tokens(logprobs, call.mask, "logprobs");
  check_tokens(ref_logprobs, call.mask, "ref_logprobs");
  const Estimator estimator = estimator_of(kl_estimator);
  const bool both = logprobs.scalar_type() == ref_logprobs.scalar_type();
  const Tensor policy = walkable(both ? logprobs : torch::stable::to(logprobs, ScalarType::Float));
  const Tensor reference = walkable(both ? ref_logprobs : torch::stable::to(ref_logprobs, ScalarType::Float));
  std::vector<cpu::Carry> carries(call.num_rows);
  by_dtype(policy, [&](auto l) {
    by_dtype(call.values, [&](auto v) {
      const int64_t* starts = offsets_of(call.offsets);
      call.run(
          cpu::KLRewards<decltype(l)>{array_of<decltype(l)>(policy, starts), array_of<decltype(l)>(reference, starts),
              static_cast<float>(kl_coef), estimator},
          v, carries.data());
    });
  });
  return {call.advantages, call.returns, moments_of(carries, call.mask)};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(prl, CPU, library) {
  library.impl("gae", TORCH_BOX(&gae));
  library.impl("shaped_gae", TORCH_BOX(&shaped_gae));
}

}  // namespace prl
