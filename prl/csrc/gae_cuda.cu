// The launch of gae_cuda.cuh. No torch header here: nvcc reads this file once for every architecture.
#include <cuda_runtime.h>

#include "gae_cuda.cuh"

namespace prl::cuda {
namespace {

template <int Threads, class Source>
void start(const Problem<Source>& problem, cudaStream_t stream) {
  const unsigned blocks = static_cast<unsigned>(problem.num_chunks);
  if (problem.decays.critic_follows) {
    scan<Threads, kItems, 1><<<blocks, Threads, 0, stream>>>(problem);
  } else {
    scan<Threads, kItems, 2><<<blocks, Threads, 0, stream>>>(problem);
  }
}

}  // namespace

template <class Source>
const char* launch(const Problem<Source>& problem, int threads, void* opaque_stream) {
  const cudaStream_t stream = static_cast<cudaStream_t>(opaque_stream);
  cudaError_t error = cudaSuccess;
  if (problem.num_tokens == 0) {
    if (problem.moments) error = cudaMemsetAsync(problem.moments, 0, 3 * sizeof(double), stream);
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }
  if (problem.needs_meeting()) {
    error = cudaMemsetAsync(problem.meeting.counters, 0, Meeting::zeroed_bytes(problem.num_chunks), stream);
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  if (threads == 128) start<128>(problem, stream);
  if (threads == 256) start<256>(problem, stream);
  if (threads == 512) start<512>(problem, stream);
  error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

template const char* launch(const Problem<Given>&, int, void*);
template const char* launch(const Problem<Shaped>&, int, void*);

}  // namespace prl::cuda
