// The CUDA kernel of prl/csrc on the CPU, for any tiling: called by tests/native/test_cuda_on_host.py through ctypes.
#include <algorithm>
#include <cstdlib>

#include "cuda_on_host.h"
// clang-format: the words of CUDA come first
#include "../../prl/csrc/gae_cuda.cuh"

namespace {

std::string error;

struct Request {
  int32_t threads, items, shaped, rewards_bf16, values_bf16, critic_follows, estimator, reserved;
  const void *rewards, *ref_logprobs, *values;  // rewards are the log-probabilities when shaped
  const uint8_t* mask;
  const float *scores, *row_lambda;
  const int64_t* offsets;
  int64_t width, num_rows, num_tokens;
  float gamma, actor, critic, coefficient;
  float *advantages, *returns;
  double* moments;
  uint64_t seed;
  int64_t num_chunks, independent;  // out
};

template <int Threads, int Items, int N, class Source>
void run(Request& request, prl::cuda::Problem<Source> problem) {
  if (problem.num_tokens == 0) {  // nothing is launched
    if (problem.moments) std::fill(problem.moments, problem.moments + 3, 0.0);
    return;
  }
  problem.cut(Threads, Items);
  request.num_chunks = problem.num_chunks;
  request.independent = problem.independent;
  // What is not zeroed on a GPU holds anything at all.
  std::vector<double> memory(prl::cuda::Meeting::bytes(problem.num_chunks, N) / sizeof(double) + 2);
  char* base = reinterpret_cast<char*>(memory.data());
  memset(base, 0xA5, memory.size() * sizeof(double));
  memset(base, 0, prl::cuda::Meeting::zeroed_bytes(problem.num_chunks));
  if (problem.needs_meeting()) problem.meeting.lie_at(base, problem.num_chunks);
  error = host::launch(static_cast<unsigned>(problem.num_chunks), Threads, request.seed,
      [&] { prl::cuda::scan<Threads, Items, N>(problem); });
}

template <int Threads, int Items>
bool run_if(Request& request) {
  if (request.threads != Threads || request.items != Items) return false;
  const auto with = [&](auto source) {
    prl::cuda::Problem<decltype(source)> problem{};
    problem.source = source;
    problem.values = {request.values, request.values_bf16 != 0};
    problem.mask = request.mask;
    problem.scores = request.scores;
    problem.decays = {request.gamma, request.actor, request.critic, request.row_lambda, request.critic_follows != 0};
    problem.offsets = request.offsets;
    problem.width = request.width;
    problem.num_rows = request.num_rows;
    problem.num_tokens = request.num_tokens;
    problem.advantages = request.advantages;
    problem.returns = request.returns;
    problem.moments = request.moments;
    request.critic_follows ? run<Threads, Items, 1>(request, problem) : run<Threads, Items, 2>(request, problem);
  };
  const prl::cuda::Tokens rewards{request.rewards, request.rewards_bf16 != 0};
  if (request.shaped) {
    with(prl::cuda::Shaped{rewards, {request.ref_logprobs, request.rewards_bf16 != 0}, request.coefficient,
        static_cast<prl::Estimator>(request.estimator)});
  } else {
    with(prl::cuda::Given{rewards});
  }
  return true;
}

}  // namespace

// Null when all went well, else the reason.
extern "C" const char* gae_on_host(Request* request) {
  error.clear();
  const bool known = run_if<32, 1>(*request) || run_if<32, 2>(*request) || run_if<64, 1>(*request) ||
      run_if<64, 4>(*request) || run_if<96, 2>(*request) || run_if<128, 8>(*request) || run_if<256, 8>(*request) ||
      run_if<512, 8>(*request) || run_if<32, 16>(*request);
  if (!known) error = "this tiling is not compiled in";
  return error.empty() ? nullptr : error.c_str();
}
