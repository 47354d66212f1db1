#include "tensor/op_checks.h"
#include "tensor/residual.h"

namespace nibble::ops {
namespace {

void check_parameter(const char* op, const char* name, const Tensor& p, const Tensor& x) {
  NIBBLE_CHECK(p.rank() == 1 && p.size(0) == x.size(-1), op,
               "got {} {} for x {}, expected one value a column", name, describe(p), describe(x));
  NIBBLE_CHECK(p.is_contiguous(), op,
               "got {} {} with strides {}, expected a contiguous one; ops::contiguous() copies it",
               name, describe(p), p.strides());
  check_same_kind(op, x, p);
}

NormResult prepare(const char* op, const Tensor& x, const Tensor& gamma, double epsilon,
                   bool has_mean) {
  check_float(op, x);
  NIBBLE_CHECK(x.rank() >= 1, op, "got {}, expected at least one dimension", describe(x));
  NIBBLE_CHECK(epsilon > 0, op, "got epsilon {}, expected a positive one", epsilon);
  check_parameter(op, "gamma", gamma, x);
  const DType stats = x.dtype() == DType::F64 ? DType::F64 : DType::F32;
  NormResult r;
  r.y = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (has_mean) r.mean = Tensor::empty({x.rows()}, stats, x.device());
  r.rstd = Tensor::empty({x.rows()}, stats, x.device());
  return r;
}

}  // namespace

NormResult layer_norm(const Tensor& x, const Tensor& gamma, const Tensor& beta, double epsilon) {
  NormResult r = prepare("layer_norm", x, gamma, epsilon, true);
  if (beta.defined()) check_parameter("layer_norm", "beta", beta, x);
  if (x.numel() > 0)
    NIBBLE_DISPATCH(x.device(),
                    layer_norm(r.y, r.mean, r.rstd, contiguous(x), gamma, beta, epsilon));
  return r;
}

AddedNorm add_layer_norm(const Tensor& x, const Tensor& residual, const Tensor& gamma,
                         const Tensor& beta, double epsilon) {
  AddedNorm r{Tensor(), prepare("add_layer_norm", x, gamma, epsilon, true)};
  if (beta.defined()) check_parameter("add_layer_norm", "beta", beta, x);
  check_same_kind("add_layer_norm", x, residual);
  NIBBLE_CHECK(x.shape() == residual.shape(), "add_layer_norm",
               "got x {} and residual {}, expected one shape", describe(x), describe(residual));
  r.sum = Tensor::empty(x.shape(), x.dtype(), x.device());
  if (x.numel() > 0)
    NIBBLE_DISPATCH(x.device(),
                    add_layer_norm(r.sum, r.norm.y, r.norm.mean, r.norm.rstd, contiguous(x),
                                   contiguous(residual), gamma, beta, epsilon));
  return r;
}

NormResult rms_norm(const Tensor& x, const Tensor& gamma, double epsilon) {
  NormResult r = prepare("rms_norm", x, gamma, epsilon, false);
  if (x.numel() > 0)
    NIBBLE_DISPATCH(x.device(), rms_norm(r.y, r.rstd, contiguous(x), gamma, epsilon));
  return r;
}

}  // namespace nibble::ops
