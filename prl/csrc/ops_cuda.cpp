// prl::gae and prl::shaped_gae for CUDA tensors, against torch's stable ABI.
#include <torch/csrc/stable/accelerator.h>

#include "checks.h"
#include "gae_cuda.cuh"

namespace prl {
namespace {

void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream));
  return stream;
}

cuda::Tokens tokens_of(const Tensor& tensor) {
  return cuda::Tokens{tensor.const_data_ptr(), tensor.scalar_type() == ScalarType::BFloat16};
}

// Everything but the rewards, which the caller has made into a source. Tensors that are not contiguous are copied.
struct Call {
  int64_t num_rows;  // first, since its value is what the checks of the others return
  Tensor values, mask;
  MaybeTensor scores, row_lambda, offsets;
  Decays decays;
  Tensor advantages, returns;

  Call(const Tensor& values_, const Tensor& mask_, const MaybeTensor& scores_, double gamma, double gae_lambda,
      std::optional<double> critic_lambda, const MaybeTensor& row_lambda_, const MaybeTensor& offsets_)
      : num_rows(check_call(values_, mask_, scores_, row_lambda_, offsets_)),
        values(torch::stable::contiguous(values_)),
        mask(torch::stable::contiguous(mask_)),
        scores(contiguous(scores_)),
        row_lambda(contiguous(row_lambda_)),
        offsets(contiguous(offsets_)),
        decays(decays_of(gamma, gae_lambda, critic_lambda, row_lambda)),
        advantages(empty_like(mask, ScalarType::Float)),
        returns(empty_like(mask, ScalarType::Float)) {
    STD_TORCH_CHECK(num_rows <= INT32_MAX, "too many rows: ", num_rows);
    STD_TORCH_CHECK(num_rows > 0 || mask.numel() == 0, "offsets must rise from 0 to N = ", mask.numel());
  }

  template <class Source>
  cuda::Problem<Source> problem(const Source& source, double* moments) const {
    cuda::Problem<Source> problem{};
    problem.source = source;
    problem.values = tokens_of(values);
    problem.mask = static_cast<const uint8_t*>(mask.const_data_ptr());
    problem.scores = scores ? static_cast<const float*>(scores->const_data_ptr()) : nullptr;
    problem.decays = decays;
    problem.offsets = offsets_of(offsets);
    problem.width = offsets ? 0 : mask.size(1);
    problem.num_rows = num_rows;
    problem.num_tokens = mask.numel();
    problem.advantages = static_cast<float*>(advantages.mutable_data_ptr());
    problem.returns = static_cast<float*>(returns.mutable_data_ptr());
    problem.moments = moments;
    return problem;
  }
};

template <class Source>
void run(const Call& call, const Source& source, double* moments) {
  cuda::Problem<Source> problem = call.problem(source, moments);
  const int threads = cuda::threads_for(problem.width);
  problem.cut(threads, cuda::kItems);
  STD_TORCH_CHECK(problem.num_chunks <= INT32_MAX, "too many tokens for one launch: ", problem.num_tokens);
  const torch::stable::accelerator::DeviceGuard guard(call.mask.get_device_index());
  Tensor memory;  // torch's allocator keeps it until the kernel, on the same stream, is through
  if (problem.num_chunks > 0 && problem.needs_meeting()) {
    const int64_t bytes = cuda::Meeting::bytes(problem.num_chunks, call.decays.critic_follows ? 1 : 2);
    memory = torch::stable::empty({bytes}, ScalarType::Byte, std::nullopt, call.mask.device());
    problem.meeting.lie_at(static_cast<char*>(memory.mutable_data_ptr()), problem.num_chunks);
  }
  const char* error = cuda::launch(problem, threads, current_stream(call.mask));
  STD_TORCH_CHECK(error == nullptr, "the kernel of prl::gae did not start: ", error);
}

std::tuple<Tensor, Tensor> gae(Tensor rewards, Tensor values, Tensor mask, double gamma, double gae_lambda,
    std::optional<double> critic_lambda, MaybeTensor row_lambda, MaybeTensor offsets) {
  const Call call(values, mask, std::nullopt, gamma, gae_lambda, critic_lambda, row_lambda, offsets);
  check_tokens(rewards, call.mask, "rewards");
  const Tensor given = torch::stable::contiguous(rewards);
  run(call, cuda::Given{tokens_of(given)}, nullptr);
  return {call.advantages, call.returns};
}

std::tuple<Tensor, Tensor, Tensor> shaped_gae(Tensor logprobs, Tensor ref_logprobs, Tensor scores, Tensor values,
    Tensor mask, double kl_coef, std::string kl_estimator, double gamma, double gae_lambda,
    std::optional<double> critic_lambda, MaybeTensor row_lambda, MaybeTensor offsets) {
  const Call call(values, mask, scores, gamma, gae_lambda, critic_lambda, row_lambda, offsets);
  check_tokens(logprobs, call.mask, "logprobs");
  check_tokens(ref_logprobs, call.mask, "ref_logprobs");
  const Tensor policy = torch::stable::contiguous(logprobs), reference = torch::stable::contiguous(ref_logprobs);
  const Estimator estimator = estimator_of(kl_estimator);
  const Tensor moments = torch::stable::empty({3}, ScalarType::Double, std::nullopt, call.mask.device());
  run(call, cuda::Shaped{tokens_of(policy), tokens_of(reference), static_cast<float>(kl_coef), estimator},
      static_cast<double*>(moments.mutable_data_ptr()));
  return {call.advantages, call.returns, moments};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(prl, CUDA, library) {
  library.impl("gae", TORCH_BOX(&gae));
  library.impl("shaped_gae", TORCH_BOX(&shaped_gae));
}

}  // namespace prl
