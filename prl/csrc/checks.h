// What both implementations ask of their tensors before they touch memory, and the way from a schema to a problem.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <optional>
#include <string>
#include <tuple>

#include "numbers.h"

namespace prl {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using MaybeTensor = std::optional<Tensor>;

inline void check_tokens(const Tensor& tensor, const Tensor& mask, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == mask.dim(), name, " and mask must share one shape");
  for (int64_t k = 0; k < mask.dim(); ++k) {
    STD_TORCH_CHECK(tensor.size(k) == mask.size(k), name, " and mask must share one shape");
  }
  const ScalarType dtype = tensor.scalar_type();
  STD_TORCH_CHECK(
      dtype == ScalarType::Float || dtype == ScalarType::BFloat16, name, " must be torch.float32 or torch.bfloat16");
  STD_TORCH_CHECK(tensor.device() == mask.device(), name, " and mask must be on one device");
}

inline void check_rows(const MaybeTensor& rows, const Tensor& mask, int64_t num_rows, const char* name) {
  if (!rows) return;
  STD_TORCH_CHECK(rows->dim() == 1 && rows->size(0) == num_rows, name, " must have one entry per row");
  STD_TORCH_CHECK(rows->scalar_type() == ScalarType::Float, name, " must be torch.float32");
  STD_TORCH_CHECK(rows->device() == mask.device(), name, " and mask must be on one device");
}

// Checks what both operators take, and returns the number of rows.
inline int64_t check_call(const Tensor& values, const Tensor& mask, const MaybeTensor& scores,
    const MaybeTensor& row_lambda, const MaybeTensor& offsets) {
  STD_TORCH_CHECK(mask.scalar_type() == ScalarType::Bool, "mask must be torch.bool (True = counts)");
  STD_TORCH_CHECK(mask.dim() == (offsets ? 1 : 2), "mask must be [B, T], or [N] with offsets");
  if (offsets) {
    STD_TORCH_CHECK(offsets->dim() == 1 && offsets->size(0) > 0, "offsets must be [B + 1]");
    STD_TORCH_CHECK(offsets->scalar_type() == ScalarType::Long, "offsets must be torch.int64");
    STD_TORCH_CHECK(offsets->device() == mask.device(), "offsets and mask must be on one device");
  }
  const int64_t num_rows = offsets ? offsets->size(0) - 1 : mask.size(0);
  check_tokens(values, mask, "values");
  check_rows(scores, mask, num_rows, "scores");
  check_rows(row_lambda, mask, num_rows, "row_lambda");
  return num_rows;
}

inline Estimator estimator_of(const std::string& name) {
  if (name == "k1") return Estimator::k1;
  if (name == "k2") return Estimator::k2;
  STD_TORCH_CHECK(name == "k3", "unknown KL estimator '", name, "'; known: k1, k2, k3");
  return Estimator::k3;
}

inline Decays decays_of(
    double gamma, double gae_lambda, std::optional<double> critic_lambda, const MaybeTensor& row_lambda) {
  return Decays{
      static_cast<float>(gamma),
      static_cast<float>(gamma * gae_lambda),
      static_cast<float>(gamma * critic_lambda.value_or(gae_lambda)),
      row_lambda ? static_cast<const float*>(row_lambda->const_data_ptr()) : nullptr,
      !critic_lambda.has_value()};
}

// A tensor whose rows a kernel can walk: each row in one piece.
inline Tensor walkable(const Tensor& tensor) {
  const int64_t last = tensor.dim() - 1;
  return tensor.stride(last) == 1 || tensor.size(last) <= 1 ? tensor : torch::stable::contiguous(tensor);
}

inline MaybeTensor contiguous(const MaybeTensor& tensor) {
  return tensor ? MaybeTensor(torch::stable::contiguous(*tensor)) : tensor;
}

inline Tensor empty_like(const Tensor& mask, ScalarType dtype) {
  return torch::stable::empty(mask.sizes(), dtype, std::nullopt, mask.device());
}

// Calls body with a value of the type that a tensor holds.
template <class Body>
void by_dtype(const Tensor& tensor, const Body& body) {
  tensor.scalar_type() == ScalarType::Float ? body(float{}) : body(bf16{});
}

inline const int64_t* offsets_of(const MaybeTensor& offsets) {
  return offsets ? static_cast<const int64_t*>(offsets->const_data_ptr()) : nullptr;
}

}  // namespace prl
